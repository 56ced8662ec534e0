"""Replaying one aggregate's history."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from shared.aggregates.aggregate import Aggregate, pack
from shared.aggregates.ship import SHIP
from shared.aggregates.user import USER
from tests.services.caller import Caller
from tests.services.histories import folded
from tests.services.refusals import invalid, missing, unavailable
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.query_pb2 import AsOf, ReplayRequest
from tidemark.v1.ship_pb2 import (
    DepartShip,
    DockShip,
    GetShipRequest,
    LoadCargo,
    RegisterShip,
    UnloadCargo,
)
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser, DeleteUser, GetUserRequest

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]

SHIP_LIFE: list[Message] = [
    RegisterShip(ship_id="one", name="Aurora"),
    DockShip(ship_id="one", port="Oslo"),
    LoadCargo(ship_id="one", item="silk", quantity=2),
    UnloadCargo(ship_id="one", item="silk", quantity=2),
    DepartShip(ship_id="one"),
]
USER_LIFE: list[Message] = [
    CreateUser(user_id="one", username="ada", balance=10),
    ChangeUserBalance(user_id="one", balance_change=-3),
    DeleteUser(user_id="one"),
]
both_kinds = pytest.mark.parametrize(
    ("aggregate", "life"), [(SHIP, SHIP_LIFE), (USER, USER_LIFE)], ids=["ship", "user"]
)


def replay(aggregate: Aggregate[Any] = SHIP, **fields: Any) -> ReplayRequest:
    """The request for the history of the aggregate named "one"."""
    return ReplayRequest(aggregate_type=aggregate.name, aggregate_id="one", **fields)


async def replayed(caller: Caller, request: ReplayRequest) -> list[RecordedEvent]:
    """The events on a replay that has no states."""
    responses = await caller.all(request)
    assert not any(response.HasField("state") for response in responses)
    return [response.event for response in responses]


@both_kinds
async def test_a_replay_has_every_event_oldest_first(
    caller: Caller, aggregate: Aggregate[Any], life: list[Message]
) -> None:
    await caller.do(*life)
    events = await caller.events("one")

    found = await replayed(caller, replay(aggregate))

    assert [event.version for event in found] == list(range(1, len(life) + 1))
    assert [e.SerializeToString() for e in found] == [e.SerializeToString() for e in events]


@both_kinds
async def test_each_event_comes_with_the_state_that_it_led_to(
    caller: Caller, aggregate: Aggregate[Any], life: list[Message]
) -> None:
    await caller.do(*life)
    events = await caller.events("one")

    responses = await caller.all(replay(aggregate, include_state=True))

    assert [response.event for response in responses] == events
    for number, response in enumerate(responses, start=1):
        assert response.state == pack(folded(aggregate, events[:number]))


async def test_the_events_of_other_aggregates_are_left_out(caller: Caller) -> None:
    await caller.do(
        *SHIP_LIFE,
        CreateUser(user_id="one", username="ada"),
        RegisterShip(ship_id="two", name="Aurora"),
        DockShip(ship_id="one", port="Rome"),
    )

    found = await replayed(caller, replay())

    assert {(event.aggregate_type, event.aggregate_id) for event in found} == {("ship", "one")}
    assert len(found) == len(SHIP_LIFE) + 1


@pytest.mark.parametrize("include_state", [False, True])
async def test_a_replay_after_a_version_leaves_out_what_led_to_it(
    caller: Caller, include_state: bool
) -> None:
    await caller.do(*SHIP_LIFE)
    whole = await caller.all(replay(include_state=include_state))

    for version in range(len(whole) + 1):
        rest = await caller.all(replay(after_version=version, include_state=include_state))
        assert rest == whole[version:]


async def test_after_the_last_version_there_is_nothing_to_replay(caller: Caller) -> None:
    await caller.do(*SHIP_LIFE)

    assert await caller.all(replay(after_version=2**63 - 1)) == []


async def test_a_replay_until_a_moment_includes_what_happened_at_it(caller: Caller) -> None:
    await caller.do(*SHIP_LIFE)
    events = await caller.events("one")

    for number, event in enumerate(events, start=1):
        for moment in (
            AsOf(version=number),
            AsOf(position=event.position),
            AsOf(time=event.occurred_at),
        ):
            assert await replayed(caller, replay(until=moment)) == events[:number]


async def test_a_replay_until_just_before_an_event_is_without_it(caller: Caller) -> None:
    await caller.do(*SHIP_LIFE)
    events = await caller.events("one")

    for number, event in enumerate(events[1:], start=1):
        just_before = Timestamp()
        just_before.FromNanoseconds(event.occurred_at.ToNanoseconds() - 1)
        for moment in (AsOf(time=just_before), AsOf(position=event.position - 1)):
            assert await replayed(caller, replay(until=moment)) == events[:number]


async def test_a_replay_can_be_of_the_versions_between_two(caller: Caller) -> None:
    await caller.do(*SHIP_LIFE)
    events = await caller.events("one")

    found = await replayed(caller, replay(after_version=1, until=AsOf(version=3)))

    assert found == events[1:3]


async def test_a_replay_until_the_future_is_until_the_head(caller: Caller) -> None:
    await caller.do(*SHIP_LIFE)
    next_century = AsOf(time=Timestamp(seconds=4_102_444_800))

    assert await replayed(caller, replay(until=next_century)) == await caller.events("one")


async def test_a_replay_waits_for_its_min_position(caller: Caller) -> None:
    (*_, last) = await caller.do(*SHIP_LIFE)

    replaying = asyncio.ensure_future(replayed(caller, replay(min_position=last.position + 1)))
    await caller.do(DockShip(ship_id="one", port="Rome"))

    assert await replaying == await caller.events("one")


async def test_a_replay_waits_until_its_moment_is_reached(caller: Caller) -> None:
    (*_, last) = await caller.do(*SHIP_LIFE)
    moments = (AsOf(version=last.version + 1), AsOf(position=last.position + 1))

    replaying = [
        asyncio.ensure_future(replayed(caller, replay(until=moment))) for moment in moments
    ]
    await caller.do(DockShip(ship_id="one", port="Rome"))

    events = await caller.events("one")
    for found in replaying:
        assert await found == events


@pytest.mark.parametrize(
    "fields",
    [
        {"min_position": 2**63 - 1},
        {"until": AsOf(version=6)},
        {"until": AsOf(position=2**63 - 1)},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_a_replay_of_what_does_not_come_is_behind_within_the_deadline(
    caller: Caller, fields: dict[str, Any]
) -> None:
    await caller.do(*SHIP_LIFE)

    with unavailable("PROJECTION_BEHIND"):
        await caller.all(replay(**fields), deadline_s=0.5)


@both_kinds
async def test_what_has_no_history_is_not_found(
    caller: Caller, aggregate: Aggregate[Any], life: list[Message]
) -> None:
    assert life
    with missing(f"{aggregate.name.upper()}_NOT_FOUND"):
        await caller.all(replay(aggregate))


async def test_what_has_no_history_up_to_a_moment_is_not_found(caller: Caller) -> None:
    first, *_ = await caller.do(*SHIP_LIFE)

    for moment in (
        AsOf(version=0),
        AsOf(position=0),
        AsOf(position=first.position - 1),
        AsOf(time=Timestamp()),
    ):
        with missing("SHIP_NOT_FOUND"):
            await caller.all(replay(until=moment))


@pytest.mark.parametrize("name", ["plane", "Ship", "tidemark.v1.Ship", "*"])
async def test_an_unknown_aggregate_type_is_invalid(caller: Caller, name: str) -> None:
    with invalid("aggregate_type"):
        await caller.all(ReplayRequest(aggregate_type=name, aggregate_id="one"))


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (ReplayRequest(), ["aggregate_type", "aggregate_id"]),
        (replay(after_version=-1), ["after_version"]),
        (replay(min_position=-1), ["min_position"]),
        (replay(until=AsOf()), ["until"]),
        (replay(until=AsOf(version=-1)), ["until.version"]),
        (replay(until=AsOf(position=-1)), ["until.position"]),
        (replay(until=AsOf(time=Timestamp(nanos=-1))), ["until.time"]),
    ],
    ids=lambda each: "+".join(each) if isinstance(each, list) else "",
)
async def test_a_bad_field_is_named(
    caller: Caller, request_: ReplayRequest, fields: list[str]
) -> None:
    await caller.do(*SHIP_LIFE)

    with invalid(*fields):
        await caller.all(request_)


@pytest.mark.parametrize("count", [1000, 1001, 2500])
async def test_a_history_longer_than_a_page_is_replayed_whole(caller: Caller, count: int) -> None:
    changes = [ChangeUserBalance(user_id="one", balance_change=n) for n in range(1, count)]
    await caller.do(CreateUser(user_id="one", username="ada"), *changes)

    responses = await caller.all(replay(USER, include_state=True))

    assert [response.event for response in responses] == await caller.events("one")
    assert len(responses) == count
    state = None
    for response in responses:
        state = USER.fold(state, response.event)
        assert response.state == pack(state)


@pytest.mark.parametrize("after_version", [199, 200, 201, 399, 400, 449, 450, 500])
async def test_a_replay_that_begins_late_shows_the_same_states(
    caller: Caller, after_version: int
) -> None:
    changes = [ChangeUserBalance(user_id="one", balance_change=n) for n in range(1, 450)]
    await caller.do(CreateUser(user_id="one", username="ada"), *changes)
    await caller.ask(GetUserRequest(user_id="one"))
    whole = await caller.all(replay(USER, include_state=True))

    late = await caller.all(replay(USER, include_state=True, after_version=after_version))
    bare = await caller.all(replay(USER, after_version=after_version))

    assert len(whole) == 450
    assert late == whole[after_version:]
    assert [each.event for each in bare] == [each.event for each in late]


async def test_a_replay_ends_at_what_was_the_head_when_it_began(caller: Caller) -> None:
    changes = [ChangeUserBalance(user_id="one", balance_change=1)] * 1999
    await caller.do(CreateUser(user_id="one", username="ada"), *changes)
    stream = caller.stream(replay(USER))
    versions = [(await stream.read()).event.version]

    await caller.do(*changes)
    while (response := await stream.read()) is not grpc.aio.EOF:
        versions.append(response.event.version)

    assert versions == list(range(1, 2001))


async def test_a_caller_who_hangs_up_costs_nobody_else_anything(caller: Caller) -> None:
    changes = [ChangeUserBalance(user_id="one", balance_change=1)] * 1999
    await caller.do(CreateUser(user_id="one", username="ada"), *changes)

    streams = [caller.stream(replay(USER)) for _ in range(20)]
    for stream in streams:
        await stream.read()
        stream.cancel()

    assert len(await caller.all(replay(USER))) == 2000
    with missing("SHIP_NOT_FOUND"):
        await caller.ask(GetShipRequest(ship_id="one"))
    assert await streams[0].code() is grpc.StatusCode.CANCELLED
