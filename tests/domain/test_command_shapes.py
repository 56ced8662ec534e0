"""The shape of every command, field by field, and that no command is without.

The kinds of field below say what passes and what does not; the table says which field is which. A
new command, or a new field of one, fails these tests until it has a line in the table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pkgutil import iter_modules
from typing import Any

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

import tidemark.v1
from command_service.aggregates import RULES
from command_service.aggregates.rules import Rules
from shared.errors import FieldViolation, TidemarkError
from tests.domain.specification import fold, history
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt
from tidemark.v1.ship_pb2 import DepartShip, DockShip, LoadCargo, RegisterShip, UnloadCargo
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser, DeleteUser, EraseUser

Value = str | int

MAX_INT64 = 2**63 - 1
MIN_INT64 = -(2**63)

EMPTY = "must not be empty"
CONTROL = "must not contain control characters"
TOO_MANY_BYTES = "must have at most 128 bytes"
TOO_MANY_CHARACTERS = "must have at most 256 characters"

CONTROL_CHARACTERS = ["\0", "\t", "\n", "\r", "\x1b", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]
WITH_CONTROL: dict[Value, tuple[str, ...]] = {
    f"{before}{control}{after}": (CONTROL,)
    for control in CONTROL_CHARACTERS
    for before, after in [("a", "b"), ("", "b"), ("a", "")]
}


@dataclass(frozen=True)
class Kind:
    """A kind of field: values that pass, and values that do not with what is said of them."""

    passes: tuple[Value, ...]
    fails: dict[Value, tuple[str, ...]]


IDENTIFIER = Kind(
    passes=(
        "a",
        "a" * 128,
        "é" * 64,  # two bytes each
        "船" * 42 + "ab",  # three bytes each
        "🚢" * 32,  # four bytes each
        'it\'s 100 % "Ünïcode"; --/..\\',
    ),
    fails={
        "": (EMPTY,),
        "a" * 129: (TOO_MANY_BYTES,),
        "é" * 64 + "a": (TOO_MANY_BYTES,),
        "é" * 65: (TOO_MANY_BYTES,),
        "船" * 43: (TOO_MANY_BYTES,),
        "🚢" * 32 + "a": (TOO_MANY_BYTES,),
        "a" * 100_000: (TOO_MANY_BYTES,),
        "\0": (CONTROL,),
        "a" * 128 + "\0": (TOO_MANY_BYTES, CONTROL),
        **WITH_CONTROL,
    },
)
NEW_IDENTIFIER = Kind(
    passes=("", *IDENTIFIER.passes),
    fails={value: violations for value, violations in IDENTIFIER.fails.items() if value},
)
TEXT = Kind(
    passes=(
        "a",
        " a ",
        "a" * 256,
        "é" * 256,
        "船" * 256,
        "🚢" * 256,
        'it\'s 100 % "Ünïcode"; --/..\\',
    ),
    fails={
        "": (EMPTY,),
        " ": (EMPTY,),
        "   ": (EMPTY,),
        "\u00a0\u2003\u3000": (EMPTY,),  # blanks, too
        "a" * 257: (TOO_MANY_CHARACTERS,),
        "船" * 257: (TOO_MANY_CHARACTERS,),
        "🚢" * 257: (TOO_MANY_CHARACTERS,),
        "a" * 100_000: (TOO_MANY_CHARACTERS,),
        " " * 257: (EMPTY, TOO_MANY_CHARACTERS),
        "\0": (CONTROL,),
        "\t\n": (EMPTY, CONTROL),
        "a" * 256 + "\0": (TOO_MANY_CHARACTERS, CONTROL),
        **WITH_CONTROL,
    },
)
QUANTITY = Kind(
    passes=(1, 2, 999_999_999, 1_000_000_000),
    fails=dict.fromkeys(
        (0, -1, 1_000_000_001, MAX_INT64, MIN_INT64), ("must be from 1 to 1000000000",)
    ),
)
FIRST_BALANCE = Kind(
    passes=(0, 1, MAX_INT64),
    fails=dict.fromkeys((-1, MIN_INT64), (f"must be from 0 to {MAX_INT64}",)),
)
BALANCE_CHANGE = Kind(
    passes=(1, -1, MAX_INT64, MIN_INT64),
    fails={0: ("must not be 0",)},
)

SHAPES: dict[type[Message], dict[str, Kind]] = {
    RegisterShip: {"ship_id": NEW_IDENTIFIER, "name": TEXT},
    DockShip: {"ship_id": IDENTIFIER, "port": TEXT},
    DepartShip: {"ship_id": IDENTIFIER},
    LoadCargo: {"ship_id": IDENTIFIER, "item": TEXT, "quantity": QUANTITY},
    UnloadCargo: {"ship_id": IDENTIFIER, "item": TEXT, "quantity": QUANTITY},
    CreateUser: {"user_id": NEW_IDENTIFIER, "username": TEXT, "balance": FIRST_BALANCE},
    ChangeUserBalance: {"user_id": IDENTIFIER, "balance_change": BALANCE_CHANGE},
    DeleteUser: {"user_id": IDENTIFIER},
    EraseUser: {"user_id": IDENTIFIER},
}

RULES_OF = {command: rules for rules in RULES for command in rules.commands}


def well_formed(command: type[Message], **fields: Value) -> Message:
    """The command with the given fields; in the others, what passes."""
    passing = {field: kind.passes[0] for field, kind in SHAPES[command].items()}
    return command(**passing | fields)


def violations(command: Message) -> list[FieldViolation]:
    checks = RULES_OF[type(command)].commands[type(command)]
    return list(chain.from_iterable(check(command) for check in checks))


def shown(value: object) -> str | None:
    """A test's id: long texts in short."""
    match value:
        case type():
            return value.__name__
        case str() if len(value) > 20:
            return f"{value[:2]}…{value[-1]}x{len(value)}".encode("unicode_escape").decode()
        case str() | int():
            return repr(value).encode("unicode_escape").decode()
    return ""


PASSING = [
    (command, field, value)
    for command, fields in SHAPES.items()
    for field, kind in fields.items()
    for value in kind.passes
]
FAILING = [
    (command, field, value, descriptions)
    for command, fields in SHAPES.items()
    for field, kind in fields.items()
    for value, descriptions in kind.fails.items()
]


# Each field by itself


@pytest.mark.parametrize(("command", "field", "value"), PASSING, ids=shown)
def test_a_field_passes(command: type[Message], field: str, value: Value) -> None:
    assert violations(well_formed(command, **{field: value})) == []


@pytest.mark.parametrize(("command", "field", "value", "descriptions"), FAILING, ids=shown)
def test_a_field_fails_and_is_named_with_what_is_wrong(
    command: type[Message], field: str, value: Value, descriptions: tuple[str, ...]
) -> None:
    assert violations(well_formed(command, **{field: value})) == [
        FieldViolation(field, description) for description in descriptions
    ]


@pytest.mark.parametrize(("command", "fields"), list(SHAPES.items()), ids=shown)
def test_of_a_command_without_content_every_required_field_is_named(
    command: type[Message], fields: dict[str, Kind]
) -> None:
    missing = {
        field: description
        for field, kind in fields.items()
        for value, descriptions in kind.fails.items()
        for description in descriptions
        if value in {"", 0}
    }
    assert violations(command()) == [FieldViolation(*each) for each in missing.items()]


# Nothing is forgotten


def command_services() -> Iterator[ServiceDescriptor]:
    """The services of the contract whose every RPC is one command answered by one receipt."""
    for module in iter_modules(tidemark.v1.__path__):
        file = import_module(f"tidemark.v1.{module.name}").DESCRIPTOR
        for service in file.services_by_name.values():
            if any(method.output_type == CommandReceipt.DESCRIPTOR for method in service.methods):
                yield service


def test_every_command_service_of_the_contract_has_its_rules() -> None:
    contract = {service.full_name for service in command_services()}
    assert contract == {rules.service.full_name for rules in RULES}
    assert contract >= {"tidemark.v1.ShipCommandService", "tidemark.v1.UserCommandService"}


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.aggregate.name)
def test_every_rpc_of_a_command_service_has_a_command_in_its_rules(rules: Rules[Any]) -> None:
    requests = {method.input_type.full_name for method in rules.service.methods}
    assert {command.DESCRIPTOR.full_name for command in rules.commands} == requests


def test_no_two_aggregates_have_a_name_or_a_command_in_common() -> None:
    assert len({rules.aggregate.name for rules in RULES}) == len(RULES)
    assert len(RULES_OF) == sum(len(rules.commands) for rules in RULES)


def test_every_command_has_a_line_in_the_table_above() -> None:
    assert SHAPES.keys() == RULES_OF.keys()


@pytest.mark.parametrize("command", list(RULES_OF), ids=shown)
def test_every_field_of_a_command_has_its_place_in_the_table_above(command: type[Message]) -> None:
    fields = command.DESCRIPTOR.fields_by_name
    assert fields["context"].message_type == CommandContext.DESCRIPTOR
    assert {*SHAPES[command], "context"} == {*fields}


@pytest.mark.parametrize("command", list(RULES_OF), ids=shown)
def test_every_command_says_first_which_aggregate_it_is_for(command: type[Message]) -> None:
    id_field = RULES_OF[command].aggregate.id_field
    assert command.DESCRIPTOR.fields_by_name[id_field].number == 1
    assert SHAPES[command][id_field] in (IDENTIFIER, NEW_IDENTIFIER)


@pytest.mark.parametrize("command", list(RULES_OF), ids=shown)
def test_every_command_is_decided_whether_the_aggregate_exists_or_not(
    command: type[Message],
) -> None:
    rules = RULES_OF[command]
    creations = [each for each in rules.commands if decided(rules, None, each) is not None]
    assert len(creations) == 1

    created = decided(rules, None, creations[0])
    assert created is not None
    assert type(created[0]) is rules.aggregate.created_by
    state = fold(rules.aggregate, history(rules.aggregate, *created))
    # Anything but events or a refusal ends this test.
    assert decided(rules, state, command) != []
    assert decided(rules, None, command) != []


def decided(rules: Rules[Any], state: Message | None, command: type[Message]) -> Any:
    """The events, or None for a refusal."""
    try:
        return rules.decide(state, well_formed(command))
    except TidemarkError:
        return None


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.aggregate.name)
def test_what_is_no_command_of_the_aggregate_is_not_decided(rules: Rules[Any]) -> None:
    with pytest.raises(TypeError, match="No rule for CommandReceipt"):
        rules.decide(rules.aggregate.state(), CommandReceipt())
