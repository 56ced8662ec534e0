"""From a message on the wire to a command that can be executed."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from command_service.aggregates import RULES
from command_service.aggregates.ship import SHIP_RULES
from command_service.aggregates.user import USER_RULES
from command_service.command import CommandTypes
from shared.aggregates.aggregate import pack
from shared.checks import Check
from shared.errors import FieldViolation, InvalidArgument, InvalidFields
from shared.log.log import CommandKey
from tests.executor.commands import TENANT, TYPES, command, dock, register, uuid
from tests.log.builders import ship
from tidemark.v1.command_pb2 import CommandContext
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import DepartShip, DockShip, GetShipRequest, LoadCargo, RegisterShip
from tidemark.v1.user_pb2 import DeleteUser

SPELLED = "0a8b6e1c-5f1e-4c5b-9c52-3c3e2b1d7f00"

# The types


@pytest.mark.parametrize("missing", SHIP_RULES.commands)
def test_a_service_whose_rpc_has_no_rule_does_not_start_and_names_it(
    missing: type[Message],
) -> None:
    rest = {each: checks for each, checks in SHIP_RULES.commands.items() if each is not missing}
    with pytest.raises(LookupError) as refused:
        CommandTypes([replace(SHIP_RULES, commands=rest), USER_RULES])
    assert missing.DESCRIPTOR.full_name in str(refused.value)
    assert "tidemark.v1.ShipCommandService." in str(refused.value)


def test_a_command_that_only_another_aggregate_s_rules_decide_is_missing() -> None:
    moved: dict[type[Message], Sequence[Check]] = {DepartShip: SHIP_RULES.commands[DepartShip]}
    rest = {each: checks for each, checks in SHIP_RULES.commands.items() if each is not DepartShip}
    with pytest.raises(LookupError, match=r"tidemark\.v1\.DepartShip"):
        CommandTypes(
            [
                replace(SHIP_RULES, commands=rest),
                replace(USER_RULES, commands={**USER_RULES.commands, **moved}),
            ]
        )


def test_every_command_is_found_by_its_name() -> None:
    commands = [each for rules in RULES for each in rules.commands]
    assert len(commands) == 9
    for each in commands:
        assert type(TYPES.unpack(pack(each()))) is each


# Unpacking


@pytest.mark.parametrize("prefix", ["type.googleapis.com/", "example.com/a/", "/", ""])
def test_a_command_is_unpacked_whatever_the_prefix_of_its_type(prefix: str) -> None:
    packed = AnyMessage(type_url=f"{prefix}tidemark.v1.DockShip", value=dock().SerializeToString())
    assert TYPES.unpack(packed) == dock()


@pytest.mark.parametrize(
    "packed",
    [
        AnyMessage(),
        AnyMessage(type_url="type.googleapis.com/"),
        AnyMessage(type_url="type.googleapis.com/tidemark.v1.SinkShip"),
        AnyMessage(type_url="type.googleapis.com/tidemark.v1.DockShip/"),
        AnyMessage(type_url="type.googleapis.com/DockShip"),
        AnyMessage(type_url="type.googleapis.com/tidemark.v1.dockship"),
        pack(GetShipRequest(ship_id="aurora")),
        pack(RecordedEvent()),
        pack(CommandContext()),
    ],
    ids=lambda packed: packed.type_url or "empty",
)
def test_what_is_no_command_is_told_so(packed: AnyMessage) -> None:
    with pytest.raises(InvalidArgument) as refused:
        TYPES.unpack(packed)
    assert refused.value.reason == "UNKNOWN_COMMAND"


@pytest.mark.parametrize(
    "value",
    [
        b"\xff",
        dock().SerializeToString()[:-1],
        b"\x0a\x7faurora",
        b"\x0a\x02\xff\xfe",
    ],
    ids=["garbage", "cut off", "a length beyond the end", "text that is no UTF-8"],
)
def test_bytes_that_are_not_the_command_that_they_are_said_to_be_are_malformed(
    value: bytes,
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        TYPES.unpack(AnyMessage(type_url="type.googleapis.com/tidemark.v1.DockShip", value=value))
    assert refused.value.reason == "MALFORMED_REQUEST"
    assert "tidemark.v1.DockShip" in refused.value.message


# The context


def violations_of(context: CommandContext, name: str = "Aurora") -> list[FieldViolation]:
    message = RegisterShip(ship_id="aurora", name=name, context=context)
    with pytest.raises(InvalidFields) as refused:
        TYPES.read(message, TENANT)
    return list(refused.value.violations)


@pytest.mark.parametrize(
    "spelling",
    [
        SPELLED,
        SPELLED.upper(),
        SPELLED.replace("-", ""),
        SPELLED.replace("-", "").upper(),
        f"{{{SPELLED}}}",
        f"urn:uuid:{SPELLED}",
    ],
)
def test_a_command_id_in_any_usual_spelling_is_kept_in_the_canonical_one(spelling: str) -> None:
    asked = command(register(), spelling)
    assert asked.command_id == SPELLED
    assert asked.receipt_key == CommandKey(TENANT, SPELLED)
    assert asked.correlation_id == SPELLED


@pytest.mark.parametrize(
    "malformed",
    [
        "1",
        "no uuid",
        SPELLED[:-1],
        SPELLED + "0",
        SPELLED.replace("a", "g"),
        SPELLED[:-1] + "\0",
        " ",
        "0" * 100_000,
    ],
)
def test_a_command_id_that_is_no_uuid_is_told_so(malformed: str) -> None:
    violations = violations_of(CommandContext(command_id=malformed))
    assert violations == [FieldViolation("context.command_id", "must be a UUID")]


@pytest.mark.parametrize(
    "malformed",
    [
        "0x" + "1" * 30,
        "+" + "1" * 31,
        "1_1_" * 7 + "1111",
        " " + "1" * 31,
        "1" * 31 + "\n",
        "１" * 32,  # full width
        "1-" * 32,
        "{{{" + SPELLED + "}",
        "urn:urn:uuid:uuid:" + SPELLED,
        SPELLED[:3] + "urn:" + SPELLED[3:],
    ],
    ids=[
        "a hexadecimal literal",
        "a sign",
        "underscores",
        "a blank before",
        "a newline after",
        "digits of another script",
        "hyphens everywhere",
        "too many braces",
        "too many prefixes",
        "a prefix in the middle",
    ],
)
def test_what_python_alone_takes_for_a_uuid_is_none(malformed: str) -> None:
    UUID(malformed)
    violations = violations_of(CommandContext(command_id=malformed))
    assert violations == [FieldViolation("context.command_id", "must be a UUID")]


@pytest.mark.parametrize(
    ("correlation_id", "description"),
    [
        ("x" * 129, "must have at most 128 bytes"),
        ("é" * 65, "must have at most 128 bytes"),
        ("a\0b", "must not contain control characters"),
        ("a\nb", "must not contain control characters"),
    ],
)
def test_a_correlation_id_has_limits(correlation_id: str, description: str) -> None:
    violations = violations_of(CommandContext(correlation_id=correlation_id))
    assert violations == [FieldViolation("context.correlation_id", description)]


@pytest.mark.parametrize("version", [-1, -(2**63)])
def test_an_expected_version_is_not_negative(version: int) -> None:
    violations = violations_of(CommandContext(expected_version=version))
    assert violations == [FieldViolation("context.expected_version", "must not be negative")]


def test_everything_that_is_wrong_is_named_at_once() -> None:
    context = CommandContext(command_id="?", correlation_id="\0", expected_version=-1)
    assert [violation.field for violation in violations_of(context, name="")] == [
        "name",
        "context.command_id",
        "context.correlation_id",
        "context.expected_version",
    ]


@pytest.mark.parametrize("version", [0, 1, 2**63 - 1])
def test_an_expected_version_that_is_given_is_kept(version: int) -> None:
    assert command(register(), expected_version=version).expected_version == version


def test_what_the_context_leaves_out_is_completed() -> None:
    asked = command(register())
    assert UUID(asked.command_id).version == 7
    assert asked.correlation_id == asked.command_id
    assert (asked.expected_version, asked.validate_only, asked.actor) == (None, False, "")
    assert asked.receipt_key is None
    assert asked.key == ship("aurora", TENANT)


def test_what_the_context_says_is_kept() -> None:
    asked = command(register(), 1, correlation_id="x" * 128, validate_only=True, actor="Ada")
    assert (asked.command_id, asked.correlation_id) == (uuid(1), "x" * 128)
    assert (asked.validate_only, asked.actor) == (True, "Ada")
    assert asked.receipt_key is None


def test_an_id_that_is_left_to_the_service_is_a_new_one_each_time() -> None:
    ids = {command(RegisterShip(name="Aurora")).key.aggregate_id for _ in range(10)}
    assert len(ids) == 10
    assert {UUID(each).version for each in ids} == {7}


# The fingerprint


def test_the_fingerprint_is_of_the_content_and_not_of_the_context() -> None:
    fingerprints = {
        command(dock(), 1).fingerprint,
        command(dock(), 2).fingerprint,
        command(dock(), 1, correlation_id="again").fingerprint,
        command(dock(), 1, expected_version=7).fingerprint,
        command(dock(), 1, validate_only=True).fingerprint,
        command(dock(), 1, tenant_id="umbrella", actor="Ada").fingerprint,
    }
    assert len(fingerprints) == 1


def test_the_fingerprint_tells_contents_and_types_apart() -> None:
    different: list[Message] = [
        DockShip(ship_id="a", port="b"),
        DockShip(ship_id="ab", port="b"),
        DockShip(ship_id="a", port="ab"),
        RegisterShip(ship_id="a", name="b"),
        DepartShip(ship_id="a"),
        DeleteUser(user_id="a"),
        LoadCargo(ship_id="a", item="b", quantity=1),
        LoadCargo(ship_id="a", item="b", quantity=2),
    ]
    fingerprints = {command(each, 1).fingerprint for each in different}
    assert len(fingerprints) == len(different)
    assert b"" not in fingerprints


def test_the_fingerprint_of_an_id_that_was_made_up_is_empty() -> None:
    assert command(dock()).fingerprint == b""


def test_the_fingerprint_ignores_fields_that_are_not_known_here() -> None:
    unknown_field = b"\xa2\x06\x05later"
    newer = TYPES.unpack(
        AnyMessage(
            type_url="tidemark.v1.DockShip", value=dock().SerializeToString() + unknown_field
        )
    )
    assert newer != dock()
    assert command(newer, 1).fingerprint == command(dock(), 1).fingerprint
