"""Every command of both domains, its receipt, and every way in which it can be answered."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from shared.aggregates.aggregate import pack
from tests.services.commanding import (
    CALL_S,
    Failure,
    failure,
    failure_of,
    of,
    rpc_error,
    send,
    send_all,
)
from tests.services.deployment import CommandClient, Deployment, deployment
from tests.services.readable import keys_of, readable
from tests.services.subscribing import history, payload_names, versions
from tidemark.v1.command_pb2 import CommandReceipt, ExecuteRequest
from tidemark.v1.ship_pb2 import (
    CargoLoaded,
    CargoUnloaded,
    DepartShip,
    DockShip,
    LoadCargo,
    RegisterShip,
    ShipDeparted,
    ShipDocked,
    ShipRegistered,
    UnloadCargo,
)
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    DeleteUser,
    EraseUser,
    UserBalanceChanged,
    UserCreated,
    UserDeleted,
    UserErased,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

REGISTER = RegisterShip(name="Ever")
DOCK = DockShip(port="Kiel")
LOAD = LoadCargo(item="silk", quantity=5)
UNLOAD = UnloadCargo(item="silk", quantity=3)
CREATE = CreateUser(username="ada", balance=10)
CHANGE = ChangeUserBalance(balance_change=-4)

MAX_INT64 = 2**63 - 1


@pytest.fixture
def aggregate_id() -> str:
    """The id of an aggregate that no other test has."""
    return str(uuid4())


@pytest.fixture
def command_id() -> str:
    return str(uuid4())


async def only_failure(client: CommandClient, command: Message, tenant_id: str) -> Failure:
    """Has a command fail, and makes sure that nothing was written."""
    before = await history(client.log, tenant_id=tenant_id)
    failed = await failure(send(client, command, tenant_id))
    assert await history(client.log, tenant_id=tenant_id) == before
    assert failed.domain == "tidemark"
    return failed


def as_retried(receipt: CommandReceipt) -> CommandReceipt:
    """What a retry of the command gets."""
    repeated = CommandReceipt()
    repeated.CopyFrom(receipt)
    repeated.duplicate = True
    return repeated


# Receipts


@pytest.mark.parametrize(
    ("given", "command", "event"),
    [
        ([], REGISTER, ShipRegistered(name="Ever")),
        ([REGISTER], DOCK, ShipDocked(port="Kiel")),
        ([REGISTER, DOCK], DockShip(port="Oslo"), ShipDocked(port="Oslo")),
        ([REGISTER, DOCK], DepartShip(), ShipDeparted(departed_from="Kiel")),
        ([REGISTER, DOCK], LOAD, CargoLoaded(item="silk", quantity=5, port="Kiel")),
        ([REGISTER, DOCK, LOAD], UNLOAD, CargoUnloaded(item="silk", quantity=3, port="Kiel")),
        ([], CREATE, UserCreated(username="ada", balance=10)),
        ([CREATE], CHANGE, UserBalanceChanged(balance_change=-4)),
        ([CREATE], DeleteUser(), UserDeleted()),
        ([CREATE, CHANGE], EraseUser(), UserErased()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else "",
)
async def test_a_command_is_answered_with_the_receipt_of_the_event_that_it_caused(
    shared: Deployment,
    aggregate_id: str,
    tenant_id: str,
    given: list[Message],
    command: Message,
    event: Message,
) -> None:
    earlier = await send_all(shared.commands, aggregate_id, *given, tenant_id=tenant_id)

    receipt = await send(shared.commands, of(aggregate_id, command), tenant_id)

    assert str(UUID(receipt.command_id)) == receipt.command_id
    assert receipt.aggregate_id == aggregate_id
    assert receipt.version == len(given) + 1
    assert receipt.position > max((each.position for each in earlier), default=0)
    assert not receipt.duplicate
    assert not receipt.events
    [*before, recorded] = await history(shared.commands.log, tenant_id=tenant_id)
    assert versions([*before, recorded]) == list(range(1, receipt.version + 1))
    keys = await keys_of(shared.commands, [recorded])
    assert readable(recorded, keys).payload == pack(event)
    assert recorded.position == receipt.position
    assert recorded.tenant_id == tenant_id
    assert recorded.aggregate_type == _aggregate_type(command)
    assert recorded.aggregate_id == aggregate_id
    assert recorded.causation_id == recorded.correlation_id == receipt.command_id
    assert str(UUID(recorded.event_id)) == recorded.event_id
    assert all(
        each.occurred_at.ToNanoseconds() < recorded.occurred_at.ToNanoseconds() for each in before
    )
    assert recorded.occurred_at.nanos % 1000 == 0
    assert recorded.actor == shared.access.subject
    assert recorded.command_fingerprint == b""


@pytest.mark.parametrize("command", [REGISTER, CREATE], ids=["ship", "user"])
async def test_who_leaves_the_id_empty_is_given_one(shared: Deployment, command: Message) -> None:
    first = await send(shared.commands, command)
    second = await send(shared.commands, command)

    assert first.aggregate_id != second.aggregate_id
    for receipt in (first, second):
        assert str(UUID(receipt.aggregate_id)) == receipt.aggregate_id
        [event] = await history(shared.commands.log, receipt.aggregate_id)
        assert event.version == receipt.version == 1


async def test_a_retry_of_who_left_the_id_empty_gets_the_id_that_was_made_up(
    shared: Deployment, command_id: str
) -> None:
    command = of("", REGISTER, command_id=command_id)
    first = await send(shared.commands, command)

    retry = await send(shared.commands, command)

    assert retry == as_retried(first)
    assert len(await history(shared.commands.log, first.aggregate_id)) == 1


async def test_a_correlation_id_is_copied_onto_the_event(
    shared: Deployment, ship_id: str, command_id: str
) -> None:
    await send(
        shared.commands, of(ship_id, REGISTER, command_id=command_id, correlation_id="voyage 7")
    )

    [event] = await history(shared.commands.log, ship_id)
    assert event.correlation_id == "voyage 7"
    assert event.causation_id == command_id


async def test_without_a_correlation_id_it_is_the_command_id(
    shared: Deployment, ship_id: str, command_id: str
) -> None:
    await send(shared.commands, of(ship_id, REGISTER, command_id=command_id))

    [event] = await history(shared.commands.log, ship_id)
    assert event.correlation_id == event.causation_id == command_id
    assert event.command_fingerprint


async def test_a_command_sent_after_an_answer_has_a_later_position(
    shared: Deployment, ship_id: str, user_id: str
) -> None:
    first = await send(shared.commands, of(ship_id, REGISTER))
    second = await send(shared.commands, of(user_id, CREATE))
    third = await send(shared.commands, of(ship_id, REGISTER), tenant_id="another")

    assert first.position < second.position < third.position


# Refusals

NOT_FOUND = StatusCode.NOT_FOUND
EXISTS = StatusCode.ALREADY_EXISTS
REFUSED = StatusCode.FAILED_PRECONDITION
LOADED = [REGISTER, DOCK, LOAD]
RICH = [CreateUser(username="ada", balance=MAX_INT64)]


@pytest.mark.parametrize(
    ("given", "command", "code", "reason", "message", "metadata"),
    [
        ([REGISTER], REGISTER, EXISTS, "SHIP_ALREADY_REGISTERED", "already registered", {}),
        ([], DOCK, NOT_FOUND, "SHIP_NOT_FOUND", "no such ship", {}),
        ([], DepartShip(), NOT_FOUND, "SHIP_NOT_FOUND", "no such ship", {}),
        ([], LOAD, NOT_FOUND, "SHIP_NOT_FOUND", "no such ship", {}),
        ([], UNLOAD, NOT_FOUND, "SHIP_NOT_FOUND", "no such ship", {}),
        (
            [REGISTER],
            DepartShip(),
            REFUSED,
            "SHIP_NOT_DOCKED",
            "Ship is not docked at any port",
            {},
        ),
        (
            [REGISTER, DOCK, DepartShip()],
            LOAD,
            REFUSED,
            "SHIP_NOT_DOCKED",
            "Ship must be docked to load cargo",
            {},
        ),
        (
            [*LOADED, DepartShip()],
            UNLOAD,
            REFUSED,
            "SHIP_NOT_DOCKED",
            "Ship must be docked to unload cargo",
            {},
        ),
        ([REGISTER, DOCK], UNLOAD, REFUSED, "CARGO_NOT_ABOARD", "No silk on the ship", {}),
        (
            LOADED,
            UnloadCargo(item="silk", quantity=6),
            REFUSED,
            "NOT_ENOUGH_CARGO",
            "Not enough silk on the ship",
            {"aboard": "5"},
        ),
        ([CREATE], CREATE, EXISTS, "USER_ALREADY_EXISTS", "already exists", {}),
        ([], CHANGE, NOT_FOUND, "USER_NOT_FOUND", "no such user", {}),
        ([], DeleteUser(), NOT_FOUND, "USER_NOT_FOUND", "no such user", {}),
        (
            [CREATE],
            ChangeUserBalance(balance_change=-11),
            REFUSED,
            "INSUFFICIENT_BALANCE",
            "Insufficient balance",
            {"balance": "10"},
        ),
        (RICH, ChangeUserBalance(balance_change=1), REFUSED, "BALANCE_OVERFLOW", "exceed", {}),
        ([CREATE, DeleteUser()], CREATE, REFUSED, "USER_DELETED", "User is deleted", {}),
        ([CREATE, DeleteUser()], CHANGE, REFUSED, "USER_DELETED", "User is deleted", {}),
        ([], EraseUser(), NOT_FOUND, "USER_NOT_FOUND", "no such user", {}),
        ([CREATE, EraseUser()], EraseUser(), REFUSED, "USER_ERASED", "User is erased", {}),
        ([CREATE, DeleteUser()], DeleteUser(), REFUSED, "USER_DELETED", "User is deleted", {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else None,
)
async def test_a_refusal_says_what_is_wrong_and_writes_nothing(
    shared: Deployment,
    aggregate_id: str,
    tenant_id: str,
    given: list[Message],
    command: Message,
    code: StatusCode,
    reason: str,
    message: str,
    metadata: dict[str, str],
) -> None:
    await send_all(shared.commands, aggregate_id, *given, tenant_id=tenant_id)

    failed = await only_failure(shared.commands, of(aggregate_id, command), tenant_id)

    kind = _aggregate_type(command)
    assert (failed.code, failed.reason) == (code, reason)
    assert message in failed.message
    assert failed.metadata == metadata | {"aggregate_type": kind, "aggregate_id": aggregate_id}
    refusals = [(reason, f"{kind}/{aggregate_id}", failed.message)] if code is REFUSED else []
    assert failed.preconditions == refusals
    assert failed.fields == []
    assert failed.retry_after is None


async def test_a_ship_carries_at_most_1000_kinds_of_item(
    shared: Deployment, ship_id: str, tenant_id: str
) -> None:
    await send_all(shared.commands, ship_id, REGISTER, DOCK, tenant_id=tenant_id)
    loads = [of(ship_id, LoadCargo(item=f"item {n}", quantity=1)) for n in range(1000)]
    request = ExecuteRequest(commands=[pack(load) for load in loads])
    call = shared.commands.bulk.Execute([request], metadata=(("x-tenant-id", tenant_id),))
    assert {result.WhichOneof("result") for result in (await call.read()).results} == {"receipt"}

    failed = await only_failure(shared.commands, of(ship_id, LOAD), tenant_id)

    assert (failed.code, failed.reason) == (REFUSED, "TOO_MANY_ITEMS")
    more_of_one = await send(shared.commands, loads[0], tenant_id)
    assert more_of_one.version == 1003


# Bad input

TOO_LONG = "é" * 65  # 130 bytes, 65 characters
TOO_MUCH = "x" * 257


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        (RegisterShip(), ["name"]),
        (RegisterShip(name=TOO_MUCH), ["name"]),
        (RegisterShip(name="\x00"), ["name"]),
        (RegisterShip(name="a\nb"), ["name"]),
        (RegisterShip(ship_id=TOO_LONG, name="Ever"), ["ship_id"]),
        (RegisterShip(ship_id="a\x00", name="Ever"), ["ship_id"]),
        (RegisterShip(ship_id=TOO_LONG), ["ship_id", "name"]),
        (DockShip(port="Kiel"), ["ship_id"]),
        (DockShip(ship_id="a"), ["port"]),
        (DockShip(), ["ship_id", "port"]),
        (DockShip(ship_id="a", port=TOO_MUCH), ["port"]),
        (DepartShip(), ["ship_id"]),
        (DepartShip(ship_id=TOO_LONG), ["ship_id"]),
        (LoadCargo(ship_id="a", quantity=1), ["item"]),
        (LoadCargo(ship_id="a", item="silk"), ["quantity"]),
        (LoadCargo(ship_id="a", item="silk", quantity=-1), ["quantity"]),
        (LoadCargo(ship_id="a", item="silk", quantity=1_000_000_001), ["quantity"]),
        (LoadCargo(ship_id="a", item="silk", quantity=MAX_INT64), ["quantity"]),
        (UnloadCargo(ship_id="a", item="si\x7flk", quantity=0), ["item", "quantity"]),
        (UnloadCargo(ship_id="a", item="silk", quantity=-MAX_INT64 - 1), ["quantity"]),
        (CreateUser(), ["username"]),
        (CreateUser(username="ada", balance=-1), ["balance"]),
        (CreateUser(user_id="a\x1b", username=TOO_MUCH), ["user_id", "username"]),
        (ChangeUserBalance(balance_change=1), ["user_id"]),
        (ChangeUserBalance(user_id="a"), ["balance_change"]),
        (DeleteUser(), ["user_id"]),
        (EraseUser(), ["user_id"]),
        (of("a", DOCK, command_id="not-a-uuid"), ["context.command_id"]),
        (of("a", DOCK, command_id="0" * 31), ["context.command_id"]),
        (of("a", DOCK, expected_version=-1), ["context.expected_version"]),
        (of("a", DOCK, correlation_id=TOO_LONG), ["context.correlation_id"]),
        (of("a", DOCK, correlation_id="a\rb"), ["context.correlation_id"]),
        (
            of("a", DockShip(), command_id="x", expected_version=-1),
            ["port", "context.command_id", "context.expected_version"],
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else type(value).__name__,
)
async def test_a_wrong_field_is_named(
    shared: Deployment, tenant_id: str, command: Message, fields: list[str]
) -> None:
    failed = await only_failure(shared.commands, command, tenant_id)

    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert failed.fields == fields
    assert all(field in failed.message for field in fields)
    assert failed.preconditions == []
    assert failed.retry_after is None


async def test_what_is_just_within_the_limits_is_taken(shared: Deployment, tenant_id: str) -> None:
    longest_id = "é" * 64
    commands = [
        RegisterShip(name="𝄞" * 256),
        DOCK,
        LoadCargo(item="i" * 256, quantity=1_000_000_000),
    ]

    receipts = await send_all(shared.commands, longest_id, *commands, tenant_id=tenant_id)
    user = of(longest_id, CreateUser(username="a", balance=MAX_INT64))
    receipts.append(await send(shared.commands, user, tenant_id))

    assert [receipt.version for receipt in receipts] == [1, 2, 3, 1]
    assert {receipt.aggregate_id for receipt in receipts} == {longest_id}


def raw_call(client: CommandClient, method: str) -> Any:
    """An RPC that takes and gives bytes."""
    rpc: Any = client.channel.unary_unary(f"/tidemark.v1.{method}")
    return partial(rpc, metadata=client.access.metadata)


@pytest.mark.parametrize(
    "malformed",
    [
        b"\xff\xff\xff",
        b"\x0a\x05ab",
        b"\x12\x02\xff\xfe",
        b"\x7a\x01\x0a",
        b"\x0b",
        b"\x00\x00",
        b"\x0a\xff\xff\xff\xff\x0f",
    ],
    ids=["no tag", "cut off", "no UTF-8", "context cut off", "open group", "field 0", "too long"],
)
@pytest.mark.parametrize("method", ["ShipCommandService/Register", "UserCommandService/Create"])
async def test_bytes_that_are_no_command_are_a_malformed_request(
    shared: Deployment, method: str, malformed: bytes
) -> None:
    failed = await failure(raw_call(shared.commands, method)(malformed, timeout=CALL_S))

    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    assert failed.domain == "tidemark"


@pytest.mark.parametrize("method", ["ShipCommandService/Scuttle", "SubmarineService/Dive"])
async def test_an_unknown_method_is_unimplemented(shared: Deployment, method: str) -> None:
    error = await rpc_error(raw_call(shared.commands, method)(b"", timeout=CALL_S))

    assert error.code() is StatusCode.UNIMPLEMENTED


async def test_a_message_over_4_mib_is_too_large(shared: Deployment, ship_id: str) -> None:
    just_over = RegisterShip(ship_id=ship_id, name="x" * (4 << 20))

    error = await rpc_error(send(shared.commands, just_over))

    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert (await send(shared.commands, of(ship_id, REGISTER))).version == 1


async def test_a_message_just_under_4_mib_is_read(shared: Deployment, tenant_id: str) -> None:
    just_under = RegisterShip(name="x" * ((4 << 20) - 64))

    failed = await only_failure(shared.commands, just_under, tenant_id)

    assert failed.fields == ["name"]


# Expected versions


@pytest.mark.parametrize(
    ("given", "command", "expected_version"),
    [([], REGISTER, 0), ([REGISTER], DOCK, 1), (LOADED, UNLOAD, 3), ([], CREATE, 0)],
)
async def test_a_command_at_the_expected_version_is_executed(
    shared: Deployment,
    aggregate_id: str,
    given: list[Message],
    command: Message,
    expected_version: int,
) -> None:
    await send_all(shared.commands, aggregate_id, *given)

    receipt = await send(
        shared.commands, of(aggregate_id, command, expected_version=expected_version)
    )

    assert receipt.version == expected_version + 1


@pytest.mark.parametrize(
    ("given", "command", "expected_version"),
    [
        ([REGISTER, DOCK], DOCK, 1),
        ([REGISTER, DOCK], DOCK, 3),
        ([REGISTER, DOCK], DOCK, MAX_INT64),
        ([REGISTER, DOCK], REGISTER, 0),
        ([REGISTER, DOCK], LOAD, 0),
        ([], DOCK, 1),
        ([], CREATE, 7),
        ([CREATE], ChangeUserBalance(balance_change=-100), 0),
    ],
)
async def test_a_command_at_another_version_learns_the_actual_one(
    shared: Deployment,
    aggregate_id: str,
    tenant_id: str,
    given: list[Message],
    command: Message,
    expected_version: int,
) -> None:
    await send_all(shared.commands, aggregate_id, *given, tenant_id=tenant_id)

    command = of(aggregate_id, command, expected_version=expected_version)
    failed = await only_failure(shared.commands, command, tenant_id)

    assert (failed.code, failed.reason) == (StatusCode.ABORTED, "WRONG_VERSION")
    assert failed.metadata["actual_version"] == str(len(given))
    assert failed.metadata["expected_version"] == str(expected_version)
    assert failed.metadata["aggregate_id"] == aggregate_id


async def test_of_many_commands_at_one_expected_version_one_wins(
    shared: Deployment, ship_id: str
) -> None:
    await send(shared.commands, of(ship_id, REGISTER))

    answers = await asyncio.gather(
        *(
            send(shared.commands, of(ship_id, DockShip(port=f"{n}"), expected_version=1))
            for n in range(50)
        ),
        return_exceptions=True,
    )

    [winner] = [each for each in answers if isinstance(each, CommandReceipt)]
    losers = [failure_of(each) for each in answers if isinstance(each, grpc.aio.AioRpcError)]
    assert winner.version == 2
    assert len(losers) == 49
    assert {loser.reason for loser in losers} == {"WRONG_VERSION"}
    assert {loser.metadata["actual_version"] for loser in losers} == {"2"}
    assert versions(await history(shared.commands.log, ship_id)) == [1, 2]


# Validating only


async def test_validate_only_shows_the_events_and_records_nothing(
    shared: Deployment, ship_id: str, command_id: str
) -> None:
    await send(shared.commands, of(ship_id, REGISTER))

    receipt = await send(
        shared.commands, of(ship_id, DOCK, command_id=command_id, validate_only=True)
    )

    assert receipt.command_id == command_id
    assert receipt.aggregate_id == ship_id
    assert receipt.version == 2
    assert receipt.position == 0
    assert not receipt.duplicate
    [event] = receipt.events
    assert event.payload == pack(ShipDocked(port="Kiel"))
    assert (event.position, event.event_id) == (0, "")
    assert (event.aggregate_type, event.aggregate_id, event.version) == ("ship", ship_id, 2)
    assert event.causation_id == event.correlation_id == command_id
    assert versions(await history(shared.commands.log, ship_id)) == [1]


async def test_validate_only_does_not_use_up_the_command_id(
    shared: Deployment, ship_id: str, command_id: str
) -> None:
    await send(shared.commands, of(ship_id, REGISTER, command_id=command_id, validate_only=True))

    receipt = await send(shared.commands, of(ship_id, REGISTER, command_id=command_id))

    assert not receipt.duplicate
    assert versions(await history(shared.commands.log, ship_id)) == [1]


async def test_validate_only_does_not_look_the_command_id_up(
    shared: Deployment, ship_id: str, tenant_id: str, command_id: str
) -> None:
    command = of(ship_id, REGISTER, command_id=command_id)
    await send(shared.commands, command, tenant_id)

    failed = await only_failure(
        shared.commands, of(ship_id, REGISTER, command_id=command_id, validate_only=True), tenant_id
    )

    assert failed.reason == "SHIP_ALREADY_REGISTERED"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (of("", DepartShip(), validate_only=True), "SHIP_NOT_DOCKED"),
        (of("", DOCK, validate_only=True, expected_version=9), "WRONG_VERSION"),
        (of("", DockShip(), validate_only=True), "INVALID_FIELD"),
    ],
)
async def test_validate_only_refuses_what_would_be_refused(
    shared: Deployment, ship_id: str, tenant_id: str, command: Message, reason: str
) -> None:
    await send(shared.commands, of(ship_id, REGISTER), tenant_id)

    failed = await only_failure(shared.commands, of(ship_id, command), tenant_id)

    assert failed.reason == reason


async def test_validate_only_sees_what_was_answered_before(
    shared: Deployment, ship_id: str
) -> None:
    for version in range(1, 20):
        await send(shared.commands, of(ship_id, DOCK if version > 1 else REGISTER))

        receipt = await send(shared.commands, of(ship_id, DOCK, validate_only=True))

        assert receipt.version == version + 1


# Repeating

SPELLINGS = {
    "the same": str,
    "upper case": str.upper,
    "braces": lambda text: "{" + text + "}",
    "urn": lambda text: "urn:uuid:" + text,
    "no hyphens": lambda text: text.replace("-", ""),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
@pytest.mark.parametrize("command", [REGISTER, CREATE], ids=["ship", "user"])
async def test_a_retry_under_the_same_command_id_does_nothing_and_gets_the_same_receipt(
    shared: Deployment, aggregate_id: str, command_id: str, command: Message, spell: Any
) -> None:
    first = await send(shared.commands, of(aggregate_id, command, command_id=command_id))

    retry = await send(shared.commands, of(aggregate_id, command, command_id=spell(command_id)))

    assert not first.duplicate
    assert first.command_id == command_id
    assert retry == as_retried(first)
    assert len(await history(shared.commands.log, aggregate_id)) == 1


async def test_a_command_id_is_recorded_in_its_canonical_form(
    shared: Deployment, ship_id: str, command_id: str
) -> None:
    spelling = "{" + command_id.upper() + "}"

    receipt = await send(shared.commands, of(ship_id, REGISTER, command_id=spelling))

    [event] = await history(shared.commands.log, ship_id)
    assert receipt.command_id == event.causation_id == event.correlation_id == command_id


async def test_a_retry_gets_the_same_receipt_even_if_the_command_would_be_refused_by_now(
    shared: Deployment, ship_id: str, command_id: str
) -> None:
    await send_all(shared.commands, ship_id, REGISTER, DOCK)
    depart = of(ship_id, DepartShip(), command_id=command_id, expected_version=2)
    first = await send(shared.commands, depart)
    await send(shared.commands, of(ship_id, DOCK))

    retry = await send(shared.commands, depart)
    retry_expecting_another = await send(
        shared.commands, of(ship_id, DepartShip(), command_id=command_id, expected_version=77)
    )

    assert retry == retry_expecting_another == as_retried(first)
    assert len(await history(shared.commands.log, ship_id)) == 4


async def test_of_50_retries_at_once_one_has_an_effect(
    shared: Deployment, ship_id: str, command_id: str
) -> None:
    command = of(ship_id, REGISTER, command_id=command_id)

    receipts = await asyncio.gather(*(send(shared.commands, command) for _ in range(50)))

    [first] = [receipt for receipt in receipts if not receipt.duplicate]
    assert [each for each in receipts if each.duplicate] == [as_retried(first)] * 49
    assert versions(await history(shared.commands.log, ship_id)) == [1]


@pytest.mark.parametrize(
    "command",
    [of("", DockShip(port="Oslo")), of("", DepartShip()), of("another-ship", DOCK)],
    ids=["other content", "other command", "other aggregate"],
)
async def test_the_same_command_id_on_another_command_is_refused(
    shared: Deployment, ship_id: str, tenant_id: str, command_id: str, command: Message
) -> None:
    await send_all(shared.commands, ship_id, REGISTER, tenant_id=tenant_id)
    await send(shared.commands, of(ship_id, DOCK, command_id=command_id), tenant_id)

    another = type(command)(ship_id=ship_id)
    another.MergeFrom(of("", command, command_id=command_id))
    failed = await only_failure(shared.commands, another, tenant_id)

    assert (failed.code, failed.reason) == (REFUSED, "COMMAND_ID_REUSED")
    assert failed.metadata["command_id"] == command_id


async def test_the_refusal_of_a_reused_command_id_names_its_subject(
    shared: Deployment, ship_id: str, command_id: str
) -> None:
    await send(shared.commands, of(ship_id, REGISTER, command_id=command_id))

    failed = await failure(send(shared.commands, of(ship_id, DOCK, command_id=command_id)))

    [(kind, subject, description)] = failed.preconditions
    assert kind == "COMMAND_ID_REUSED"
    assert description == failed.message
    assert subject.strip("/"), f"{subject!r} is nobody"


async def test_of_different_commands_at_once_under_one_command_id_one_has_an_effect(
    shared: Deployment, ship_id: str, command_id: str
) -> None:
    await send(shared.commands, of(ship_id, REGISTER))
    commands = [of(ship_id, DockShip(port=f"{n}"), command_id=command_id) for n in range(20)]

    answers = await asyncio.gather(
        *(send(shared.commands, command) for command in commands), return_exceptions=True
    )

    receipts = [each for each in answers if isinstance(each, CommandReceipt)]
    refusals = [failure_of(each) for each in answers if isinstance(each, grpc.aio.AioRpcError)]
    assert [(receipt.version, receipt.duplicate) for receipt in receipts] == [(2, False)]
    assert [refusal.reason for refusal in refusals] == ["COMMAND_ID_REUSED"] * 19
    assert versions(await history(shared.commands.log, ship_id)) == [1, 2]


async def test_a_rejected_command_leaves_its_command_id_free(
    shared: Deployment, ship_id: str, tenant_id: str, command_id: str
) -> None:
    dock = of(ship_id, DOCK, command_id=command_id)
    rejected = await only_failure(shared.commands, dock, tenant_id)
    await send(shared.commands, of(ship_id, REGISTER), tenant_id)

    receipt = await send(shared.commands, dock, tenant_id)

    assert rejected.reason == "SHIP_NOT_FOUND"
    assert (receipt.version, receipt.duplicate) == (2, False)


async def test_a_rejected_command_leaves_its_command_id_free_for_another_command(
    shared: Deployment, ship_id: str, tenant_id: str, command_id: str
) -> None:
    await only_failure(shared.commands, of(ship_id, DOCK, command_id=command_id), tenant_id)

    receipt = await send(shared.commands, of(ship_id, REGISTER, command_id=command_id), tenant_id)

    assert (receipt.version, receipt.duplicate) == (1, False)


async def test_a_retry_after_a_kill_gets_the_same_receipt(tmp_path: Path) -> None:
    async with deployment(tmp_path) as own:
        commands: list[Message] = [of("", REGISTER, command_id=str(uuid4())) for _ in range(20)]
        commands += [of(f"u{n}", CREATE, command_id=str(uuid4())) for n in range(20)]
        firsts = await asyncio.gather(*(send(own.commands, command) for command in commands))

        await own.command.kill()
        await own.start_command()
        retries = await asyncio.gather(
            *(send(own.commands, command, wait_for_ready=True) for command in commands)
        )

        assert retries == [as_retried(first) for first in firsts]
        assert len(await history(own.commands.log)) == 40
        reused = await failure(
            send(own.commands, of("u0", CHANGE, command_id=firsts[0].command_id))
        )
        assert reused.reason == "COMMAND_ID_REUSED"


# Tenants


async def test_without_a_tenant_header_the_tenant_is_default(
    shared: Deployment, ship_id: str
) -> None:
    await shared.commands.ships.Register(RegisterShip(ship_id=ship_id, name="Ever"), timeout=CALL_S)

    [event] = await history(shared.commands.log, ship_id, tenant_id="default")
    assert event.tenant_id == "default"


async def test_the_same_ids_in_two_tenants_never_meet(
    shared: Deployment, aggregate_id: str, command_id: str
) -> None:
    one, other = f"a-{uuid4()}", f"b-{uuid4()}"
    register = of(aggregate_id, REGISTER, command_id=command_id)

    first = await send(shared.commands, register, one)
    second = await send(shared.commands, register, other)
    await send(shared.commands, of(aggregate_id, DOCK), one)
    third = await send(shared.commands, of(aggregate_id, CREATE), other)

    assert (first.version, first.duplicate) == (second.version, second.duplicate) == (1, False)
    assert first.position < second.position
    assert third.version == 1
    assert (await send(shared.commands, register, one)) == as_retried(first)
    assert (await send(shared.commands, register, other)) == as_retried(second)
    refused = await failure(send(shared.commands, of(aggregate_id, LOAD), other))
    assert refused.reason == "SHIP_NOT_DOCKED"
    events = {each: await history(shared.commands.log, tenant_id=each) for each in (one, other)}
    assert payload_names(events[one]) == ["ShipRegistered", "ShipDocked"]
    assert payload_names(events[other]) == ["ShipRegistered", "UserCreated"]


async def test_a_command_id_may_be_another_command_in_another_tenant(
    shared: Deployment, command_id: str
) -> None:
    one, other = f"a-{uuid4()}", f"b-{uuid4()}"
    ship = await send(shared.commands, of("x", REGISTER, command_id=command_id), one)
    user = await send(shared.commands, of("x", CREATE, command_id=command_id), other)

    assert not ship.duplicate
    assert not user.duplicate


@pytest.mark.parametrize("header", ["*", "", "t" * 129], ids=["every tenant", "empty", "too long"])
async def test_a_command_is_for_one_tenant_with_a_proper_id(
    shared: Deployment, ship_id: str, header: str
) -> None:
    failed = await failure(send(shared.commands, of(ship_id, REGISTER), header))

    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert failed.fields == ["x-tenant-id"]
    assert failed.domain == "tidemark"
    assert await history(shared.commands.log, ship_id, tenant_id="*") == []


# Many at once


async def test_a_hundred_callers_on_one_ship_get_every_version_once(
    shared: Deployment, ship_id: str
) -> None:
    await send_all(shared.commands, ship_id, REGISTER, DOCK)
    clients = [CommandClient(shared.command.address, shared.access) for _ in range(10)]

    receipts = await asyncio.gather(
        *(
            send(clients[n % 10], of(ship_id, LoadCargo(item="silk", quantity=n + 1)))
            for n in range(100)
        )
    )
    await asyncio.gather(*(client.channel.close() for client in clients))

    assert sorted(receipt.version for receipt in receipts) == list(range(3, 103))
    by_version = sorted(receipts, key=lambda receipt: receipt.version)
    events = await history(shared.commands.log, ship_id)
    assert versions(events) == list(range(1, 103))
    assert [event.position for event in events[2:]] == [each.position for each in by_version]
    assert [event.causation_id for event in events[2:]] == [each.command_id for each in by_version]
    emptied = await send(shared.commands, of(ship_id, UnloadCargo(item="silk", quantity=5050)))
    assert emptied.version == 103


async def test_many_ships_at_once_do_not_disturb_each_other(
    shared: Deployment, tenant_id: str
) -> None:
    async def voyage(ship_id: str) -> list[int]:
        receipts = await send_all(
            shared.commands, ship_id, REGISTER, DOCK, LOAD, UNLOAD, tenant_id=tenant_id
        )
        return [receipt.version for receipt in receipts]

    voyages = await asyncio.gather(*(voyage(f"ship {n}") for n in range(200)))

    assert voyages == [[1, 2, 3, 4]] * 200
    events = await history(shared.commands.log, tenant_id=tenant_id)
    positions = [event.position for event in events]
    assert len(events) == 800
    assert positions == sorted(set(positions))


async def test_rules_hold_between_callers_that_race(shared: Deployment, user_id: str) -> None:
    await send(shared.commands, of(user_id, CREATE))

    answers = await asyncio.gather(
        *(send(shared.commands, of(user_id, CHANGE)) for _ in range(30)), return_exceptions=True
    )

    receipts = [each for each in answers if isinstance(each, CommandReceipt)]
    refusals = [failure_of(each) for each in answers if isinstance(each, grpc.aio.AioRpcError)]
    assert sorted(receipt.version for receipt in receipts) == [2, 3]
    assert [each.reason for each in refusals] == ["INSUFFICIENT_BALANCE"] * 28
    assert {each.metadata["balance"] for each in refusals} == {"2"}


async def test_a_caller_that_cancels_has_its_command_executed_once_or_not_at_all(
    shared: Deployment, tenant_id: str
) -> None:
    commands = [of(f"ship {n}", REGISTER, command_id=str(uuid4())) for n in range(300)]
    calls = [send(shared.commands, command, tenant_id) for command in commands]
    async with asyncio.timeout(CALL_S):
        await asyncio.wait(
            [asyncio.ensure_future(_outcome(call)) for call in calls],
            return_when=asyncio.FIRST_COMPLETED,
        )

    for call in calls:
        call.cancel()
    outcomes = await asyncio.gather(*(_outcome(call) for call in calls))
    retries = await asyncio.gather(
        *(send(shared.commands, command, tenant_id) for command in commands)
    )

    assert None in outcomes, "none was cancelled in mid-flight"
    assert any(outcomes), "none was answered"
    for outcome, retry in zip(outcomes, retries, strict=True):
        if outcome is not None:
            assert retry == as_retried(outcome)
    events = await history(shared.commands.log, tenant_id=tenant_id)
    assert sorted(event.causation_id for event in events) == sorted(
        command.context.command_id for command in commands
    )


async def test_beyond_the_limit_of_commands_in_flight_a_command_is_refused_at_once(
    tmp_path: Path,
) -> None:
    own = Deployment(tmp_path)
    try:
        await own.start_command("--max-commands", "2")

        answers = await asyncio.gather(
            *(send(own.commands, of(f"ship {n}", REGISTER)) for n in range(200)),
            return_exceptions=True,
        )

        receipts = [each for each in answers if isinstance(each, CommandReceipt)]
        refusals = [failure_of(each) for each in answers if isinstance(each, grpc.aio.AioRpcError)]
        assert len(receipts) + len(refusals) == 200
        assert receipts
        assert refusals
        assert {(each.code, each.reason) for each in refusals} == {
            (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_COMMANDS")
        }
        assert {each.metadata["limit"] for each in refusals} == {"2"}
        assert all(each.retry_after for each in refusals)
        assert {event.aggregate_id for event in await history(own.commands.log)} == {
            receipt.aggregate_id for receipt in receipts
        }
        assert (await send(own.commands, of("afterwards", REGISTER))).version == 1
    finally:
        await own.close()


async def _outcome(call: Any) -> CommandReceipt | None:
    """The receipt; None if the call was cancelled first."""
    try:
        receipt = await call
    except asyncio.CancelledError:
        return None
    assert isinstance(receipt, CommandReceipt)
    return receipt


def _aggregate_type(command: Message) -> str:
    return command.DESCRIPTOR.fields[0].name.removesuffix("_id")
