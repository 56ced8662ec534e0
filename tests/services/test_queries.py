"""One aggregate, now and at any moment in the past, and what cannot be asked."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from shared.aggregates.aggregate import Aggregate
from shared.aggregates.ship import SHIP
from shared.aggregates.user import USER
from shared.log.log import time_of, timestamp_of
from tests.services.caller import OF_EVERY_TENANT, Caller, but
from tests.services.deployment import Deployment, details_of, reason_of
from tests.services.histories import folded
from tests.services.refusals import invalid, missing
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.query_pb2 import AsOf, ReplayRequest
from tidemark.v1.ship_pb2 import (
    DepartShip,
    DockShip,
    GetShipRequest,
    ListPortCargoRequest,
    ListPortsRequest,
    ListShipsRequest,
    LoadCargo,
    RegisterShip,
    UnloadCargo,
    WatchShipRequest,
)
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    DeleteUser,
    GetUserRequest,
    ListBalanceChangesRequest,
    ListUsersRequest,
    WatchUserRequest,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]

PATIENCE_S = 1.0
"""Of a caller who asks for what does not come."""

MAX_POSITION = 2**63 - 1
NEXT_CENTURY = Timestamp(seconds=4_102_444_800)


@dataclass(frozen=True)
class Kind:
    """A kind of aggregate, and how one of it lives and is asked for."""

    aggregate: Aggregate[Any]
    request: Callable[..., Any]
    life: Callable[[str], list[Message]]
    next: Callable[[str], Message]

    def get(self, aggregate_id: str, **fields: Any) -> Message:
        """The request for its state."""
        request: Message = self.request(**{self.aggregate.id_field: aggregate_id}, **fields)
        return request

    def state(self, response: Any) -> Any:
        """The state in the answer."""
        return getattr(response, self.aggregate.name)

    @property
    def not_found(self) -> str:
        """The reason when there is none."""
        return f"{self.aggregate.name.upper()}_NOT_FOUND"


def voyage(ship_id: str) -> list[Message]:
    return [
        RegisterShip(ship_id=ship_id, name="Aurora"),
        DockShip(ship_id=ship_id, port="Oslo"),
        LoadCargo(ship_id=ship_id, item="silk", quantity=5),
        LoadCargo(ship_id=ship_id, item="tea", quantity=3),
        UnloadCargo(ship_id=ship_id, item="silk", quantity=5),
        DepartShip(ship_id=ship_id),
    ]


def account(user_id: str) -> list[Message]:
    return [
        CreateUser(user_id=user_id, username="ada", balance=10),
        ChangeUserBalance(user_id=user_id, balance_change=32),
        ChangeUserBalance(user_id=user_id, balance_change=-2),
    ]


def call_at_rome(ship_id: str) -> Message:
    return DockShip(ship_id=ship_id, port="Rome")


def close_account(user_id: str) -> Message:
    return DeleteUser(user_id=user_id)


SHIPS = Kind(SHIP, GetShipRequest, voyage, call_at_rome)
USERS = Kind(USER, GetUserRequest, account, close_account)

both_kinds = pytest.mark.parametrize("kind", [SHIPS, USERS], ids=lambda kind: kind.aggregate.name)


async def lived(caller: Caller, kind: Kind) -> list[RecordedEvent]:
    """The events of an aggregate named "one", each between two of another."""
    for mine, other in zip(kind.life("one"), kind.life("other"), strict=True):
        await caller.do(mine)
        await caller.do(other)
    return await caller.events("one")


def at(event: RecordedEvent, nanoseconds: int = 0) -> AsOf:
    """The moment so much later than an event."""
    moment = Timestamp()
    moment.FromNanoseconds(event.occurred_at.ToNanoseconds() + nanoseconds)
    return AsOf(time=moment)


# Now


@both_kinds
async def test_a_state_is_what_its_events_made_it(caller: Caller, kind: Kind) -> None:
    events = await lived(caller, kind)

    response = await caller.ask(kind.get("one"))

    assert kind.state(response) == folded(kind.aggregate, events)
    assert response.position >= events[-1].position


@both_kinds
async def test_what_was_never_created_is_not_found(caller: Caller, kind: Kind) -> None:
    with missing(kind.not_found):
        await caller.ask(kind.get("nobody"))

    with missing(kind.not_found):
        await caller.ask(kind.get("nobody", as_of=AsOf(position=1)))


# The past


@both_kinds
async def test_as_of_each_version_is_the_fold_up_to_it(caller: Caller, kind: Kind) -> None:
    events = await lived(caller, kind)

    for number, event in enumerate(events, start=1):
        response = await caller.ask(kind.get("one", as_of=AsOf(version=number)))

        assert kind.state(response) == folded(kind.aggregate, events[:number])
        assert response.position == event.position


@both_kinds
async def test_as_of_each_position_is_the_fold_up_to_it(caller: Caller, kind: Kind) -> None:
    events = await lived(caller, kind)

    for position in range(events[0].position, events[-1].position + 2):
        response = await caller.ask(kind.get("one", as_of=AsOf(position=position)))

        past = [event for event in events if event.position <= position]
        assert kind.state(response) == folded(kind.aggregate, past)
        assert response.position == position


@both_kinds
async def test_as_of_a_time_includes_what_happened_at_it(caller: Caller, kind: Kind) -> None:
    events = await lived(caller, kind)

    for number, event in enumerate(events, start=1):
        for nanoseconds in (0, 1, 999):
            response = await caller.ask(kind.get("one", as_of=at(event, nanoseconds)))

            assert kind.state(response) == folded(kind.aggregate, events[:number])
            assert response.position == event.position


@both_kinds
async def test_as_of_just_before_an_event_is_without_it(caller: Caller, kind: Kind) -> None:
    events = await lived(caller, kind)

    for number, event in enumerate(events[1:], start=1):
        for nanoseconds in (-1, -1000):
            response = await caller.ask(kind.get("one", as_of=at(event, nanoseconds)))

            assert kind.state(response) == folded(kind.aggregate, events[:number])
            assert events[number - 1].position <= response.position < event.position


@both_kinds
async def test_before_its_first_event_nothing_is_found(caller: Caller, kind: Kind) -> None:
    first, *_ = await lived(caller, kind)

    for moment in (
        AsOf(version=0),
        AsOf(position=0),
        AsOf(position=first.position - 1),
        at(first, -1),
        AsOf(time=Timestamp()),
        AsOf(time=Timestamp(seconds=-62_135_596_800)),
    ):
        with missing(kind.not_found):
            await caller.ask(kind.get("one", as_of=moment))


@both_kinds
async def test_a_time_in_the_future_is_the_head(caller: Caller, kind: Kind) -> None:
    events = await lived(caller, kind)
    head = (await caller.events())[-1].position

    for seconds in (3600, 253_402_300_799 - events[-1].occurred_at.seconds):
        moment = AsOf(time=timestamp_of(time_of(events[-1]) + seconds * 1_000_000))
        response = await caller.ask(kind.get("one", as_of=moment))

        assert kind.state(response) == folded(kind.aggregate, events)
        assert response.position == head


@both_kinds
async def test_the_position_that_comes_with_an_answer_pins_it(caller: Caller, kind: Kind) -> None:
    events = await lived(caller, kind)
    next_hour = at(events[-1], 3600 * 10**9)
    asked = [kind.get("one"), kind.get("one", as_of=next_hour)]
    asked += [kind.get("one", as_of=moment) for moment in (AsOf(version=2), at(events[1]))]

    answers = [await caller.ask(request) for request in asked]
    await caller.do(kind.next("one"))

    for answer in answers:
        again = await caller.ask(kind.get("one", as_of=AsOf(position=answer.position)))
        assert again == answer


@both_kinds
async def test_a_moment_that_is_not_reached_is_waited_for(caller: Caller, kind: Kind) -> None:
    create, change, *_ = kind.life("one")
    (created,) = await caller.do(create)
    moments = (AsOf(version=2), AsOf(position=created.position + 1))

    asked = [asyncio.ensure_future(caller.ask(kind.get("one", as_of=each))) for each in moments]
    await caller.do(change)

    events = await caller.events("one")
    for answer in asked:
        response = await answer
        assert kind.state(response) == folded(kind.aggregate, events)
        assert response.position == events[-1].position


@both_kinds
async def test_a_moment_that_does_not_come_is_behind_within_the_deadline(
    caller: Caller, kind: Kind
) -> None:
    events = await lived(caller, kind)
    moments = [AsOf(version=len(events) + 1), AsOf(version=MAX_POSITION)]
    moments += [AsOf(position=caller.position + 1), AsOf(position=MAX_POSITION)]

    answers = await asyncio.gather(
        *(caller.ask(kind.get("one", as_of=moment), PATIENCE_S) for moment in moments),
        return_exceptions=True,
    )

    for answer in answers:
        assert_behind(answer)


@both_kinds
@pytest.mark.parametrize("number", [-1, -(2**63)])
async def test_a_negative_moment_is_invalid(caller: Caller, kind: Kind, number: int) -> None:
    await caller.do(kind.life("one")[0])

    with invalid("as_of.version"):
        await caller.ask(kind.get("one", as_of=AsOf(version=number)))
    with invalid("as_of.position"):
        await caller.ask(kind.get("one", as_of=AsOf(position=number)))


@both_kinds
async def test_an_as_of_without_a_moment_is_invalid(caller: Caller, kind: Kind) -> None:
    await caller.do(kind.life("one")[0])

    with invalid("as_of"):
        await caller.ask(kind.get("one", as_of=AsOf()))


@both_kinds
@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (253_402_300_800, 0),
        (-62_135_596_801, 0),
        (2**63 - 1, 0),
        (-(2**63), 0),
        (1, -1),
        (1, 10**9),
    ],
)
async def test_a_time_that_is_none_is_invalid(
    caller: Caller, kind: Kind, seconds: int, nanos: int
) -> None:
    await caller.do(kind.life("one")[0])

    with invalid("as_of.time"):
        moment = AsOf(time=Timestamp(seconds=seconds, nanos=nanos))
        await caller.ask(kind.get("one", as_of=moment))


# Reading what was written


def assert_behind(answer: Any) -> None:
    """It is UNAVAILABLE, PROJECTION_BEHIND, and says when to try again."""
    assert isinstance(answer, grpc.aio.AioRpcError)
    assert answer.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(answer) == "PROJECTION_BEHIND"
    retries = [each for each in details_of(answer) if isinstance(each, error_details_pb2.RetryInfo)]
    assert [retry.retry_delay.ToMilliseconds() > 0 for retry in retries] == [True]


QUERIES: list[Any] = [
    GetShipRequest(ship_id="one"),
    GetShipRequest(ship_id="one", as_of=AsOf(version=1)),
    ListShipsRequest(),
    ListPortsRequest(),
    ListPortCargoRequest(port="Oslo"),
    GetUserRequest(user_id="one"),
    GetUserRequest(user_id="one", as_of=AsOf(version=1)),
    ListUsersRequest(),
    ListBalanceChangesRequest(user_id="one"),
]
STREAMS: list[Any] = [
    WatchShipRequest(ship_id="one"),
    WatchUserRequest(user_id="one"),
    ReplayRequest(aggregate_type="ship", aggregate_id="one"),
]
NOW = [
    request
    for request in QUERIES + STREAMS
    if type(request) is not ReplayRequest
    and "as_of" not in {f.name for f, _ in request.ListFields()}
]


async def ask_any(caller: Caller, request: Any, deadline_s: float = 10.0) -> Any:
    """The answer, or the first one on a stream."""
    if type(request) not in map(type, STREAMS):
        return await caller.ask(request, deadline_s)
    stream = caller.stream(request, deadline_s)
    first = await stream.read()
    stream.cancel()
    return first


async def test_every_query_waits_for_its_min_position(caller: Caller) -> None:
    await caller.do(*voyage("one"), *account("one"))
    (last,) = await caller.do(DockShip(ship_id="one", port="Oslo"))
    awaited = last.position + 1

    asked = [
        asyncio.ensure_future(ask_any(caller, but(request, min_position=awaited)))
        for request in QUERIES + STREAMS
    ]
    (receipt,) = await caller.do(DockShip(ship_id="one", port="Rome"))

    assert receipt.position == awaited
    now, *_, replayed = [await answer for answer in asked]
    assert now.ship.current_port == "Rome"
    assert now.position >= awaited
    assert replayed.event.version == 1


@pytest.mark.parametrize("request_", NOW, ids=lambda each: type(each).__name__)
async def test_an_answer_of_now_contains_its_min_position(caller: Caller, request_: Any) -> None:
    await caller.do(*voyage("one"), *account("one"))

    answer = await ask_any(caller, request_)

    assert answer.position >= caller.position


async def test_a_min_position_that_does_not_come_is_behind_within_the_deadline(
    caller: Caller,
) -> None:
    await caller.do(*voyage("one"), *account("one"))
    requests = [but(each, min_position=MAX_POSITION) for each in QUERIES + STREAMS]

    answers = await asyncio.gather(
        *(ask_any(caller, request, PATIENCE_S) for request in requests), return_exceptions=True
    )

    assert len(answers) == 12
    for answer in answers:
        assert_behind(answer)


@pytest.mark.parametrize("request_", QUERIES + STREAMS, ids=lambda each: type(each).__name__)
async def test_a_negative_min_position_is_invalid(caller: Caller, request_: Any) -> None:
    for number in (-1, -(2**63)):
        with invalid("min_position"):
            await ask_any(caller, but(request_, min_position=number))


# Ids


NAMED: list[tuple[Any, str, str]] = [
    (GetShipRequest(ship_id="one"), "ship_id", "SHIP_NOT_FOUND"),
    (WatchShipRequest(ship_id="one"), "ship_id", "SHIP_NOT_FOUND"),
    (GetUserRequest(user_id="one"), "user_id", "USER_NOT_FOUND"),
    (WatchUserRequest(user_id="one"), "user_id", "USER_NOT_FOUND"),
    (ListBalanceChangesRequest(user_id="one"), "user_id", "USER_NOT_FOUND"),
    (
        ReplayRequest(aggregate_type="ship", aggregate_id="one"),
        "aggregate_id",
        "SHIP_NOT_FOUND",
    ),
]
named = pytest.mark.parametrize(
    ("request_", "field", "reason"), NAMED, ids=[type(each).__name__ for each, *_ in NAMED]
)


@named
@pytest.mark.parametrize("bad", ["", "x" * 129, "é" * 65, "a\0b", "a\nb", "a\x7fb", "a\x85b"])
async def test_a_bad_id_is_invalid(
    caller: Caller, request_: Any, field: str, reason: str, bad: str
) -> None:
    assert reason
    with invalid(field):
        await ask_any(caller, but(request_, **{field: bad}))


@named
@pytest.mark.parametrize("good", ["x" * 128, "é" * 64, " ", "'; DROP TABLE ships --", "%", "*"])
async def test_any_other_id_is_only_not_found(
    caller: Caller, request_: Any, field: str, reason: str, good: str
) -> None:
    with missing(reason):
        await ask_any(caller, but(request_, **{field: good}))


async def test_all_that_is_wrong_is_named_at_once(caller: Caller) -> None:
    with invalid("ship_id", "min_position"):
        await caller.ask(GetShipRequest(min_position=-1))


@pytest.mark.parametrize("port", ["", "  ", "x" * 257, "a\tb"])
async def test_a_bad_port_is_invalid(caller: Caller, port: str) -> None:
    with invalid("port"):
        await caller.ask(ListPortCargoRequest(port=port))


# Deleted users


async def test_a_deleted_user_is_unknown_to_every_query(caller: Caller) -> None:
    await caller.do(*account("one"), *account("other"), DeleteUser(user_id="one"))

    for request in (GetUserRequest(user_id="one"), ListBalanceChangesRequest(user_id="one")):
        with missing("USER_NOT_FOUND"):
            await caller.ask(request)
    with missing("USER_NOT_FOUND"):
        await caller.stream(WatchUserRequest(user_id="one")).read()
    listed = await caller.ask(ListUsersRequest())
    assert [user.user_id for user in listed.users] == ["other"]


async def test_a_deleted_user_is_there_in_the_past(caller: Caller) -> None:
    await caller.do(*account("one"), DeleteUser(user_id="one"))
    events = await caller.events("one")

    answers = [
        await caller.ask(GetUserRequest(user_id="one", as_of=AsOf(version=event.version)))
        for event in events
    ]
    replayed = await caller.all(ReplayRequest(aggregate_type="user", aggregate_id="one"))

    for number, answer in enumerate(answers, start=1):
        assert answer.user == folded(USER, events[:number])
    assert answers[-1].user.deleted
    assert [response.event for response in replayed] == events


# Tenants


async def test_the_same_ids_in_two_tenants_are_two_aggregates(shared: Deployment) -> None:
    here = Caller(shared.commands, shared.queries, "tenant-here")
    there = Caller(shared.commands, shared.queries, "tenant-there")
    await here.do(
        RegisterShip(ship_id="one", name="Here"),
        DockShip(ship_id="one", port="Oslo"),
        LoadCargo(ship_id="one", item="silk", quantity=1),
        CreateUser(user_id="one", username="here", balance=1),
        ChangeUserBalance(user_id="one", balance_change=1),
    )
    await there.do(
        RegisterShip(ship_id="one", name="There"),
        DockShip(ship_id="one", port="Oslo"),
        LoadCargo(ship_id="one", item="silk", quantity=20),
        CreateUser(user_id="one", username="there", balance=20),
        ChangeUserBalance(user_id="one", balance_change=20),
    )

    for caller, number in ((here, 1), (there, 20)):
        name = caller.tenant_id.removeprefix("tenant-")
        answers = [await ask_any(caller, request) for request in QUERIES + STREAMS]
        ship, first_ship, ships, ports, cargo, user, first_user, users, changes = answers[:9]
        watched_ship, watched_user, replayed = answers[9:]

        assert ship.ship.cargo["silk"] == number
        assert watched_ship.ship == ship.ship
        assert list(ships.ships) == [ship.ship]
        assert first_ship.ship.name == name.title()
        assert [(port.name, port.ships_docked) for port in ports.ports] == [("Oslo", 1)]
        assert [(each.item, each.aboard, each.loaded) for each in cargo.cargo] == [
            ("silk", number, number)
        ]
        assert user.user.balance == 2 * number
        assert watched_user.user == user.user
        assert list(users.users) == [user.user]
        assert first_user.user.username == name
        assert [change.balance for change in changes.changes] == [2 * number]
        assert replayed.event.tenant_id == caller.tenant_id


async def test_another_tenants_aggregate_is_not_found(caller: Caller, shared: Deployment) -> None:
    await caller.do(*voyage("secret"), *account("secret"))
    stranger = Caller(shared.commands, shared.queries, f"not-{caller.tenant_id}")
    stranger.position = caller.position

    for request, field, reason in NAMED:
        with missing(reason):
            await ask_any(stranger, but(request, **{field: "secret"}))
    for kind in (SHIPS, USERS):
        for moment in (AsOf(version=1), AsOf(position=caller.position), AsOf(time=NEXT_CENTURY)):
            with missing(kind.not_found):
                await stranger.ask(kind.get("secret", as_of=moment))
    assert not (await stranger.ask(ListShipsRequest())).ships
    assert not (await stranger.ask(ListPortsRequest())).ports
    assert not (await stranger.ask(ListPortCargoRequest(port="Oslo"))).cargo
    assert not (await stranger.ask(ListUsersRequest())).users


@pytest.mark.parametrize("request_", QUERIES + STREAMS, ids=lambda each: type(each).__name__)
async def test_no_query_is_for_every_tenant(caller: Caller, request_: Any) -> None:
    caller.metadata = OF_EVERY_TENANT

    with invalid("x-tenant-id"):
        await ask_any(caller, request_)


async def test_bytes_that_are_no_request_are_malformed(caller: Caller) -> None:
    get_ship: Any = caller.queries.channel.unary_unary("/tidemark.v1.ShipQueryService/GetShip")

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await get_ship(b"\xff\xff", timeout=10, metadata=caller.queries.access.metadata)

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "MALFORMED_REQUEST" in str(details_of(refusal.value))
