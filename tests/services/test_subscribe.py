"""The log stream, of the command service and of the query service: one contract, two servers."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from shared.aggregates.aggregate import pack
from shared.security.tenants import EVERY_TENANT
from tests.services.commanding import (
    CALL_S,
    Failure,
    failure,
    of,
    rpc_error,
    send,
    send_all,
)
from tests.services.deployment import CommandClient, Deployment, deployment, tenant
from tests.services.subscribing import (
    Subscription,
    history,
    payload_names,
    reached,
    read,
    subscribed,
    versions,
)
from tidemark.v1.command_pb2 import CommandReceipt, ExecuteRequest
from tidemark.v1.event_pb2 import EventFilter, RecordedEvent, SubscribeRequest
from tidemark.v1.ship_pb2 import DepartShip, DockShip, LoadCargo, RegisterShip
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

REGISTER = RegisterShip(name="Ever")
DOCK = DockShip(port="Kiel")
DEPART = DepartShip()
CREATE = CreateUser(username="ada", balance=10)

BEYOND_ALL = 1 << 62
LAST_MOMENT = Timestamp(seconds=253_402_300_799, nanos=999_999_999)
MUCH_LARGER_THAN_1_MIB = (1 << 20) + (1 << 16)
NO_EVENT_DIGEST = bytes(32)
MICROSECOND_NS = 1000

SERVERS = ("command_service", "query_service")
FROM_HEAD = SubscribeRequest(from_head=Empty())


@dataclass(frozen=True)
class Source:
    """One of the two services as a server of the log, and the way to fill that log."""

    server: str
    log: Any
    commands: CommandClient

    async def holds(self, receipt: CommandReceipt) -> None:
        """Returns once its log has the event."""
        await reached(self.log, receipt.position)

    async def given(
        self, tenant_id: str, aggregate_id: str, *commands: Message
    ) -> list[RecordedEvent]:
        """Commands of one aggregate, executed; its log has their events."""
        receipts = await send_all(self.commands, aggregate_id, *commands, tenant_id=tenant_id)
        await self.holds(receipts[-1])
        return await history(self.log, aggregate_id, tenant_id=tenant_id)


def source_of(both: Deployment, server: str) -> Source:
    """One of the two."""
    log = both.commands.log if server == "command_service" else both.queries.log
    return Source(server, log, both.commands)


@pytest.fixture(params=SERVERS)
def source(shared: Deployment, request: pytest.FixtureRequest) -> Source:
    return source_of(shared, request.param)


@pytest.fixture
def ship(tenant_id: str) -> str:
    """A ship of the test's own tenant."""
    return f"ship-of-{tenant_id}"


def chained(events: list[RecordedEvent], digest: bytes = NO_EVENT_DIGEST) -> bytes:
    """The digest as a subscriber computes it, from the events that it has parsed."""
    for event in events:
        digest = hashlib.sha256(digest + event.SerializeToString()).digest()
    return digest


def moment(event: RecordedEvent, nanoseconds_later: int = 0) -> Timestamp:
    """When the event was recorded, or a little later."""
    shifted = Timestamp()
    shifted.FromNanoseconds(event.occurred_at.ToNanoseconds() + nanoseconds_later)
    return shifted


async def first_response(log: Any, request: SubscribeRequest, tenant_id: str) -> Any:
    """The first response of a stream."""
    async with subscribed(log, request, tenant_id) as subscription:
        return await subscription.next()


async def refusal(log: Any, request: SubscribeRequest, tenant_id: str = "default") -> Failure:
    """Why a stream does not start."""
    return await failure(first_response(log, request, tenant_id))


# Where it starts


async def test_without_a_start_it_is_the_first_event(
    source: Source, tenant_id: str, ship: str
) -> None:
    given = await source.given(tenant_id, ship, REGISTER, DOCK, DEPART)

    subscription = await read(source.log, tenant_id=tenant_id)
    every = await read(source.log, tenant_id=EVERY_TENANT)

    assert subscription.events == given
    assert versions(given) == [1, 2, 3]
    assert every.events[0].position == min(event.position for event in every.events) == 1


async def test_a_start_after_a_position_leaves_out_everything_up_to_it(
    source: Source, tenant_id: str, ship: str
) -> None:
    given = await source.given(tenant_id, ship, REGISTER, DOCK, DEPART)

    for index, event in enumerate(given):
        request = SubscribeRequest(after_position=event.position)
        subscription = await read(source.log, request, tenant_id)
        assert subscription.events == given[index + 1 :]

    just_before = SubscribeRequest(after_position=given[1].position - 1)
    assert (await read(source.log, just_before, tenant_id)).events == given[1:]
    zero = SubscribeRequest(after_position=0)
    assert (await read(source.log, zero, tenant_id)).events == given


async def test_a_start_at_the_head_delivers_only_what_happens_from_then_on(
    source: Source, tenant_id: str, ship: str
) -> None:
    given = await source.given(tenant_id, ship, REGISTER, DOCK)

    async with subscribed(source.log, FROM_HEAD, tenant_id) as subscription:
        first = await subscription.next()
        receipt = await send(source.commands, of(ship, DEPART), tenant_id)
        [event] = await subscription.to_count(1)

    assert first is not None
    assert not first.events
    assert first.checkpoint.position == first.checkpoint.head_position >= given[-1].position
    assert event.position == receipt.position
    assert payload_names([event]) == ["ShipDeparted"]


@pytest.mark.parametrize(
    ("nanoseconds_later", "expected"),
    [
        (-MICROSECOND_NS, [2, 3]),
        (-1, [2, 3]),
        (0, [2, 3]),
        (1, [3]),
        (MICROSECOND_NS - 1, [3]),
    ],
)
async def test_a_start_at_a_time_begins_with_the_first_event_at_or_after_it(
    source: Source, tenant_id: str, ship: str, nanoseconds_later: int, expected: list[int]
) -> None:
    given = await source.given(tenant_id, ship, REGISTER, DOCK, DEPART)

    request = SubscribeRequest(from_time=moment(given[1], nanoseconds_later))
    subscription = await read(source.log, request, tenant_id)

    assert versions(subscription.events) == expected


async def test_a_start_at_a_time_between_two_events_begins_with_the_second(
    source: Source, tenant_id: str, ship: str
) -> None:
    given = await source.given(tenant_id, ship, REGISTER, DOCK, DEPART)
    gap = given[2].occurred_at.ToNanoseconds() - given[1].occurred_at.ToNanoseconds()

    request = SubscribeRequest(from_time=moment(given[1], gap // 2))
    subscription = await read(source.log, request, tenant_id)

    assert versions(subscription.events) == [3]


@pytest.mark.parametrize(
    "before_all",
    [Timestamp(), Timestamp(seconds=-62_135_596_800), Timestamp(seconds=-1, nanos=999_999_999)],
    ids=["1970", "year 1", "just before 1970"],
)
async def test_a_start_at_a_time_before_all_begins_with_the_first_event(
    source: Source, tenant_id: str, ship: str, before_all: Timestamp
) -> None:
    given = await source.given(tenant_id, ship, REGISTER, DOCK)

    subscription = await read(source.log, SubscribeRequest(from_time=before_all), tenant_id)

    assert subscription.events == given


async def test_a_start_in_the_near_future_begins_with_the_first_event_at_or_after_it(
    source: Source, tenant_id: str, ship: str
) -> None:
    [registered] = await source.given(tenant_id, ship, REGISTER)
    start = moment(registered, 500_000_000)
    is_over = asyncio.Event()

    async def sail() -> None:
        while not is_over.is_set():
            await send(source.commands, of(ship, DOCK), tenant_id)

    request = SubscribeRequest(from_time=start)
    async with subscribed(source.log, request, tenant_id) as subscription:
        sailing = asyncio.create_task(sail())
        delivered = await subscription.to_count(5)
        is_over.set()
        await sailing

    everything = await history(source.log, ship, tenant_id=tenant_id)
    from_start = [
        event for event in everything if event.occurred_at.ToNanoseconds() >= start.ToNanoseconds()
    ]
    assert delivered == from_start[: len(delivered)]
    assert delivered[0].version > 2, "all events were in the future"


# Filters

FILTERS: dict[str, tuple[EventFilter, list[str]]] = {
    "none": (EventFilter(), ["a1", "a2", "u1", "a3", "b1", "u2", "b2"]),
    "event type": (EventFilter(event_types=["tidemark.v1.ShipDocked"]), ["a2", "b2"]),
    "event types": (
        EventFilter(event_types=["tidemark.v1.ShipDocked", "tidemark.v1.UserCreated"]),
        ["a2", "u1", "b2"],
    ),
    "aggregate type": (EventFilter(aggregate_types=["user"]), ["u1", "u2"]),
    "aggregate types": (
        EventFilter(aggregate_types=["user", "ship"]),
        ["a1", "a2", "u1", "a3", "b1", "u2", "b2"],
    ),
    "aggregate id": (EventFilter(aggregate_ids=["b"]), ["b1", "b2"]),
    "aggregate ids": (EventFilter(aggregate_ids=["b", "u", "x"]), ["u1", "b1", "u2", "b2"]),
    "correlation id": (EventFilter(correlation_ids=["morning"]), ["a1", "u1", "b1"]),
    "correlation ids": (
        EventFilter(correlation_ids=["morning", "night"]),
        ["a1", "u1", "a3", "b1"],
    ),
    "type and id": (
        EventFilter(event_types=["tidemark.v1.ShipDocked"], aggregate_ids=["a"]),
        ["a2"],
    ),
    "aggregate type and correlation": (
        EventFilter(aggregate_types=["ship"], correlation_ids=["morning"]),
        ["a1", "b1"],
    ),
    "all of them": (
        EventFilter(
            event_types=["tidemark.v1.ShipRegistered", "tidemark.v1.UserCreated"],
            aggregate_types=["ship"],
            aggregate_ids=["b", "u"],
            correlation_ids=["morning", "noon"],
        ),
        ["b1"],
    ),
    "contradiction": (
        EventFilter(event_types=["tidemark.v1.ShipDocked"], aggregate_types=["user"]),
        [],
    ),
    "nobody": (EventFilter(aggregate_ids=["nobody"]), []),
}


@pytest.mark.parametrize(("event_filter", "expected"), FILTERS.values(), ids=FILTERS.keys())
async def test_a_filter_selects_events_and_the_checkpoint_moves_past_the_others(
    source: Source, tenant_id: str, event_filter: EventFilter, expected: list[str]
) -> None:
    day = [
        of("a", REGISTER, correlation_id="morning"),
        of("a", DOCK, correlation_id="noon"),
        of("u", CREATE, correlation_id="morning"),
        of("a", DEPART, correlation_id="night"),
        of("b", REGISTER, correlation_id="morning"),
        of("u", ChangeUserBalance(balance_change=1), correlation_id="noon"),
        of("b", DOCK, correlation_id="noon"),
    ]
    receipts = [await send(source.commands, command, tenant_id) for command in day]
    await source.holds(receipts[-1])

    subscription = await read(source.log, SubscribeRequest(filter=event_filter), tenant_id)

    labels = [f"{event.aggregate_id}{event.version}" for event in subscription.events]
    assert labels == expected
    assert subscription.checkpoint.position == subscription.checkpoint.head_position
    assert subscription.checkpoint.position >= receipts[-1].position


async def test_a_live_checkpoint_moves_past_events_that_are_filtered_out(
    source: Source, tenant_id: str, ship: str
) -> None:
    request = SubscribeRequest(filter=EventFilter(aggregate_ids=[ship]))

    async with subscribed(source.log, request, tenant_id) as subscription:
        await subscription.to_head()
        await send(source.commands, of("another", REGISTER), tenant_id)
        mine = await send(source.commands, of(ship, REGISTER), tenant_id)
        await subscription.to_position(mine.position)

    assert [event.aggregate_id for event in subscription.events] == [ship]


async def test_a_filter_and_a_start_go_together(source: Source, tenant_id: str, ship: str) -> None:
    given = await source.given(tenant_id, ship, REGISTER, DOCK, DEPART, DOCK)

    docked = EventFilter(event_types=["tidemark.v1.ShipDocked"])
    request = SubscribeRequest(after_position=given[1].position, filter=docked)
    subscription = await read(source.log, request, tenant_id)

    assert versions(subscription.events) == [4]


# Batches, and the end


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 0])
async def test_no_response_has_more_events_than_asked_for(
    source: Source, tenant_id: str, ship: str, size: int
) -> None:
    given = await source.given(tenant_id, ship, REGISTER, DOCK, DEPART, DOCK, DEPART)

    subscription = await read(source.log, SubscribeRequest(max_batch_size=size), tenant_id)

    assert subscription.events == given
    assert max(len(response.events) for response in subscription.responses) <= (size or 1000)
    for response in subscription.responses:
        if response.events:
            assert response.checkpoint.position >= response.events[-1].position
    positions = [response.checkpoint.position for response in subscription.responses]
    assert positions == sorted(set(positions))


async def test_stop_at_head_ends_at_what_was_the_head_when_the_call_arrived(
    source: Source, tenant_id: str, ship: str
) -> None:
    given = await source.given(tenant_id, ship, *[REGISTER, DOCK], *[DOCK] * 20)
    request = SubscribeRequest(stop_at_head=True, max_batch_size=1)

    async with subscribed(source.log, request, tenant_id) as subscription:
        await subscription.to_count(1)
        [later] = await send_all(source.commands, ship, DOCK, tenant_id=tenant_id)
        await source.holds(later)
        await subscription.to_end()

    assert subscription.events == given
    assert subscription.checkpoint.position < later.position


@pytest.mark.parametrize(
    "start",
    [
        SubscribeRequest(from_head=Empty()),
        SubscribeRequest(from_time=LAST_MOMENT),
    ],
    ids=["from head", "from the future"],
)
async def test_stop_at_head_with_a_start_beyond_all_ends_without_events(
    source: Source, tenant_id: str, ship: str, start: SubscribeRequest
) -> None:
    given = await source.given(tenant_id, ship, REGISTER)

    subscription = await read(source.log, start, tenant_id)

    assert subscription.events == []
    assert subscription.checkpoint.position >= given[-1].position


async def test_stop_at_head_after_the_head_ends_without_events(
    source: Source, tenant_id: str, ship: str
) -> None:
    await source.given(tenant_id, ship, REGISTER)
    head = (await read(source.log, tenant_id=tenant_id)).checkpoint.head_position

    subscription = await read(source.log, SubscribeRequest(after_position=head), tenant_id)

    assert subscription.events == []
    assert subscription.checkpoint.position == subscription.checkpoint.head_position == head


@pytest.mark.parametrize("server", SERVERS)
async def test_an_empty_log_is_at_its_head(tmp_path: Path, server: str) -> None:
    starts = [
        SubscribeRequest(),
        SubscribeRequest(after_position=0),
        SubscribeRequest(from_head=Empty()),
        SubscribeRequest(from_time=Timestamp()),
        SubscribeRequest(from_time=LAST_MOMENT),
        SubscribeRequest(after_position=0, after_digest=NO_EVENT_DIGEST),
    ]
    async with deployment(tmp_path) as own:
        source = source_of(own, server)

        for start in starts:
            subscription = await read(source.log, start, EVERY_TENANT)
            assert subscription.events == []
            assert subscription.checkpoint.position == 0
            assert subscription.checkpoint.head_position == 0
            assert subscription.checkpoint.digest == NO_EVENT_DIGEST
            assert not subscription.checkpoint.HasField("head_time")

        async with subscribed(source.log, tenant_id=EVERY_TENANT) as live:
            await live.next()
            receipt = await send(source.commands, of("first", REGISTER))
            [event] = await live.to_count(1)
        assert event.position == receipt.position == 1
        assert live.checkpoint.digest == chained([event])


# Live


async def test_live_events_follow_history_without_gap_or_repeat(
    source: Source, tenant_id: str, ship: str
) -> None:
    await source.given(tenant_id, ship, REGISTER, *[DOCK] * 50)

    async def sail() -> None:
        for _ in range(100):
            await send(source.commands, of(ship, DOCK), tenant_id)

    sailing = asyncio.create_task(sail())
    async with subscribed(source.log, SubscribeRequest(max_batch_size=7), tenant_id) as live:
        delivered = await live.to_count(151)
    await sailing

    assert versions(delivered) == list(range(1, 152))
    assert delivered == await history(source.log, ship, tenant_id=tenant_id)


async def test_many_live_subscribers_all_get_everything(
    source: Source, tenant_id: str, ship: str
) -> None:
    async def follow(is_ready: asyncio.Event) -> list[RecordedEvent]:
        async with subscribed(source.log, FROM_HEAD, tenant_id) as subscription:
            await subscription.next()
            is_ready.set()
            return await subscription.to_count(30)

    ready = [asyncio.Event() for _ in range(50)]
    followers = [asyncio.create_task(follow(each)) for each in ready]
    await asyncio.gather(*(each.wait() for each in ready))
    await send(source.commands, of(ship, REGISTER), tenant_id)
    await asyncio.gather(*(send(source.commands, of(ship, DOCK), tenant_id) for _ in range(29)))

    delivered = await asyncio.gather(*followers)

    everything = await history(source.log, ship, tenant_id=tenant_id)
    assert delivered == [everything] * 50


async def test_a_stream_with_nothing_to_send_says_every_few_seconds_how_far_it_is(
    shared: Deployment, tenant_id: str, ship: str
) -> None:
    future = SubscribeRequest(from_time=LAST_MOMENT)
    nobody = SubscribeRequest(filter=EventFilter(aggregate_ids=["nobody"]))
    async with AsyncExitStack() as streams:

        async def opened(request: SubscribeRequest) -> list[Subscription]:
            """On both services, with the first response read."""
            both = [
                await streams.enter_async_context(subscribed(log, request, tenant_id))
                for log in (shared.commands.log, shared.queries.log)
            ]
            for subscription in both:
                await subscription.to_head()
            return both

        excluding = [*await opened(future), *await opened(nobody)]
        receipt = await send(shared.commands, of(ship, REGISTER), tenant_id)
        await reached(shared.queries.log, receipt.position)
        quiet = await opened(FROM_HEAD)
        of_commands = quiet[0]
        heard_before = of_commands.checkpoint.origin_heard_at.ToNanoseconds()
        await asyncio.gather(*(each.next(within=8) for each in (*quiet, *excluding)))

    for subscription in (*quiet, *excluding):
        assert subscription.events == []
        checkpoint = subscription.checkpoint
        assert checkpoint.position == checkpoint.head_position == receipt.position
    assert of_commands.checkpoint.origin_heard_at.ToNanoseconds() > heard_before


# Checkpoints and digests


async def test_a_checkpoint_says_where_the_head_is_and_since_when(
    source: Source, tenant_id: str, ship: str
) -> None:
    before = time.time_ns()
    given = await source.given(tenant_id, ship, REGISTER, DOCK)

    checkpoint = (await read(source.log, tenant_id=tenant_id)).checkpoint

    assert checkpoint.position == checkpoint.head_position == given[-1].position
    assert checkpoint.head_time == given[-1].occurred_at
    assert checkpoint.origin_head_position == given[-1].position
    heard_at = checkpoint.origin_heard_at.ToNanoseconds()
    assert before - 10_000_000_000 < heard_at <= time.time_ns()


async def test_a_reader_of_the_whole_log_computes_every_digest_itself(
    source: Source, tenant_id: str, ship: str
) -> None:
    await source.given(tenant_id, ship, REGISTER, *[DOCK] * 10)
    await source.given("default", ship, REGISTER)

    subscription = await read(source.log, SubscribeRequest(max_batch_size=4), EVERY_TENANT)

    digest = NO_EVENT_DIGEST
    for response in subscription.responses:
        digest = chained(list(response.events), digest)
        assert response.checkpoint.digest == digest
    assert len(subscription.responses) > 2
    positions = [event.position for event in subscription.events]
    assert positions == list(range(1, len(positions) + 1))


async def test_both_services_have_the_same_log(shared: Deployment, tenant_id: str) -> None:
    receipts = await send_all(shared.commands, "a", REGISTER, DOCK, tenant_id=tenant_id)
    await reached(shared.queries.log, receipts[-1].position)

    original = await read(shared.commands.log, tenant_id=EVERY_TENANT)
    copy = await read(shared.queries.log, tenant_id=EVERY_TENANT)

    assert copy.events == original.events
    assert copy.checkpoint.digest == original.checkpoint.digest != NO_EVENT_DIGEST


@pytest.mark.parametrize(
    ("tenant_of_stream", "event_filter"),
    [
        ("default", EventFilter()),
        ("*", EventFilter(aggregate_types=["ship"])),
        ("*", EventFilter(aggregate_types=["ship", "user"])),
        ("default", EventFilter(correlation_ids=["x"])),
    ],
    ids=["one tenant", "filter", "filter that selects all", "both"],
)
async def test_a_stream_that_does_not_carry_the_whole_log_has_no_digest(
    source: Source, ship: str, tenant_of_stream: str, event_filter: EventFilter
) -> None:
    await source.given("default", ship, REGISTER)

    request = SubscribeRequest(filter=event_filter)
    subscription = await read(source.log, request, tenant_of_stream)

    assert {response.checkpoint.digest for response in subscription.responses} == {b""}


async def test_a_digest_given_back_is_accepted_and_carried_on(
    source: Source, tenant_id: str, ship: str
) -> None:
    await source.given(tenant_id, ship, REGISTER)
    before = (await read(source.log, tenant_id=EVERY_TENANT)).checkpoint
    given = await source.given(tenant_id, ship, DOCK, DEPART)

    request = SubscribeRequest(after_position=before.position, after_digest=before.digest)
    subscription = await read(source.log, request, EVERY_TENANT)

    assert subscription.events == given[1:]
    assert subscription.checkpoint.digest == chained(subscription.events, before.digest)


async def test_a_digest_is_accepted_at_every_position(
    source: Source, tenant_id: str, ship: str
) -> None:
    await source.given(tenant_id, ship, REGISTER, *[DOCK] * 5)
    everything = (await read(source.log, tenant_id=EVERY_TENANT)).events

    digest = NO_EVENT_DIGEST
    for position, event in enumerate(everything[:20]):
        request = SubscribeRequest(after_position=position, after_digest=digest)
        first = await first_response(source.log, request, EVERY_TENANT)
        assert first.events[0] == event
        digest = chained([event], digest)


async def test_the_digest_of_another_log_is_data_loss(
    source: Source, tenant_id: str, ship: str
) -> None:
    await source.given(tenant_id, ship, REGISTER)
    checkpoint = (await read(source.log, tenant_id=EVERY_TENANT)).checkpoint
    flipped = bytes([checkpoint.digest[0] ^ 1]) + checkpoint.digest[1:]
    wrong = [
        SubscribeRequest(after_position=checkpoint.position, after_digest=flipped),
        SubscribeRequest(after_position=checkpoint.position - 1, after_digest=checkpoint.digest),
        SubscribeRequest(after_position=checkpoint.position, after_digest=NO_EVENT_DIGEST),
        SubscribeRequest(after_position=0, after_digest=checkpoint.digest),
    ]

    for request in wrong:
        for tenant_of_stream in (EVERY_TENANT, tenant_id):
            failed = await refusal(source.log, request, tenant_of_stream)
            assert (failed.code, failed.reason) == (StatusCode.DATA_LOSS, "LOG_DIVERGED")
            assert failed.domain == "tidemark"


# Bad requests


async def test_a_position_beyond_the_head_is_refused(
    source: Source, tenant_id: str, ship: str
) -> None:
    await source.given(tenant_id, ship, REGISTER)
    head = (await read(source.log, tenant_id=tenant_id)).checkpoint.head_position

    for position in (head + 1, BEYOND_ALL):
        for extra in (SubscribeRequest(), SubscribeRequest(after_digest=b"x" * 32)):
            request = SubscribeRequest(after_position=position)
            request.MergeFrom(extra)
            failed = await refusal(source.log, request, tenant_id)
            if source.server == "command_service":
                assert failed.code is StatusCode.OUT_OF_RANGE
                assert failed.reason == "POSITION_BEYOND_HEAD"
                assert failed.retry_after is None
            else:
                assert failed.code is StatusCode.UNAVAILABLE
                assert failed.reason == "LOG_BEHIND"
                assert failed.retry_after
            assert failed.metadata == {"head_position": str(head)}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (SubscribeRequest(after_position=-1), "after_position"),
        (SubscribeRequest(after_position=-(1 << 63)), "after_position"),
        (SubscribeRequest(max_batch_size=-1), "max_batch_size"),
        (SubscribeRequest(max_batch_size=1001), "max_batch_size"),
        (SubscribeRequest(max_batch_size=(1 << 31) - 1), "max_batch_size"),
        (
            SubscribeRequest(filter=EventFilter(event_types=["tidemark.v1.ShipSunk"])),
            "filter.event_types",
        ),
        (
            SubscribeRequest(
                filter=EventFilter(event_types=["tidemark.v1.ShipDocked", "ShipDocked"])
            ),
            "filter.event_types",
        ),
        (SubscribeRequest(filter=EventFilter(event_types=[""])), "filter.event_types"),
        (SubscribeRequest(filter=EventFilter(aggregate_ids=["a\0b"])), "filter.aggregate_ids"),
        (
            SubscribeRequest(filter=EventFilter(correlation_ids=["one", "a\nb"])),
            "filter.correlation_ids",
        ),
        (
            SubscribeRequest(filter=EventFilter(aggregate_types=["submarine"])),
            "filter.aggregate_types",
        ),
        (
            SubscribeRequest(from_time=Timestamp(seconds=253_402_300_800)),
            "from_time",
        ),
        (SubscribeRequest(from_time=Timestamp(seconds=-62_135_596_801)), "from_time"),
        (SubscribeRequest(from_time=Timestamp(nanos=-1)), "from_time"),
        (SubscribeRequest(from_time=Timestamp(nanos=1_000_000_000)), "from_time"),
        (SubscribeRequest(after_digest=bytes(32)), "after_digest"),
        (SubscribeRequest(from_head=Empty(), after_digest=bytes(32)), "after_digest"),
        (SubscribeRequest(from_time=Timestamp(), after_digest=bytes(32)), "after_digest"),
        (SubscribeRequest(after_position=0, after_digest=bytes(31)), "after_digest"),
        (SubscribeRequest(after_position=0, after_digest=bytes(33)), "after_digest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_wrong_field_is_named(
    source: Source, request_: SubscribeRequest, field: str
) -> None:
    failed = await refusal(source.log, request_)

    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert failed.fields == [field]
    assert failed.domain == "tidemark"


@pytest.mark.parametrize("header", ["", "t" * 129], ids=["empty", "too long"])
async def test_a_tenant_has_a_proper_id(source: Source, header: str) -> None:
    failed = await refusal(source.log, SubscribeRequest(), header)

    assert (failed.code, failed.fields) == (StatusCode.INVALID_ARGUMENT, ["x-tenant-id"])


@pytest.mark.parametrize("malformed", [b"\xff\xff\xff", b"\x22\x7f", b"\x3a\xff\xff\xff\xff\x0f"])
@pytest.mark.parametrize("server", SERVERS)
async def test_bytes_that_are_no_request_are_a_malformed_request(
    shared: Deployment, server: str, malformed: bytes
) -> None:
    channel = (shared.commands if server == "command_service" else shared.queries).channel
    subscribe: Any = channel.unary_stream("/tidemark.v1.EventLogService/Subscribe")
    metadata = shared.access.metadata

    failed = await failure(subscribe(malformed, timeout=CALL_S, metadata=metadata).read())

    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_a_request_over_4_mib_is_too_large(source: Source) -> None:
    too_large = SubscribeRequest(filter=EventFilter(aggregate_ids=["x" * (4 << 20)]))

    error = await rpc_error(first_response(source.log, too_large, "default"))

    assert error.code() is StatusCode.RESOURCE_EXHAUSTED


# Tenants


async def test_a_tenant_sees_its_own_events_alone(source: Source) -> None:
    one, other = f"a-{uuid4()}", f"b-{uuid4()}"
    await source.given(one, "same", REGISTER, DOCK)
    await source.given(other, "same", REGISTER)

    async with subscribed(source.log, tenant_id=one) as live:
        await live.to_count(2)
        await source.given(other, "same", DOCK, DEPART)
        last = await send(source.commands, of("same", DEPART), one)
        await live.to_position(last.position)

    assert {event.tenant_id for event in live.events} == {one}
    assert versions(live.events) == [1, 2, 3]
    theirs = await history(source.log, tenant_id=other)
    assert {event.tenant_id for event in theirs} == {other}
    assert versions(theirs) == [1, 2, 3]
    filtered = await history(source.log, "same", tenant_id=one)
    assert filtered == live.events


async def test_every_tenant_at_once_is_for_who_asks_for_it(source: Source) -> None:
    one, other = f"a-{uuid4()}", f"b-{uuid4()}"
    await source.given(one, "same", REGISTER)
    await source.given(other, "same", REGISTER)

    events = await history(source.log, "same", tenant_id=EVERY_TENANT)

    assert [event.tenant_id for event in events if event.tenant_id in (one, other)] == [one, other]


# Resuming


async def test_resuming_at_every_checkpoint_gives_no_gap_and_no_repeat(
    source: Source, tenant_id: str, ship: str
) -> None:
    given = await source.given(tenant_id, ship, REGISTER, *[DOCK] * 20)
    request = SubscribeRequest(max_batch_size=3)
    delivered: list[RecordedEvent] = []

    while len(delivered) < len(given):
        response = await first_response(source.log, request, tenant_id)
        delivered += response.events
        request.after_position = response.checkpoint.position

    assert delivered == given


@pytest.mark.parametrize("server", SERVERS)
async def test_resuming_across_a_kill_gives_no_gap_and_no_repeat(
    tmp_path: Path, server: str
) -> None:
    async with deployment(tmp_path) as own:
        source = source_of(own, server)
        count = 300
        has_some = asyncio.Event()
        delivered: list[RecordedEvent] = []
        interruptions = 0

        async def sail(ship_id: str) -> None:
            for number in range(count // 10):
                command = REGISTER if number == 0 else DOCK
                await _until_executed(own.commands, of(ship_id, command, command_id=str(uuid4())))

        async def follow() -> None:
            nonlocal interruptions
            request = SubscribeRequest(max_batch_size=5)
            while len(delivered) < count:
                async with subscribed(source.log, request, EVERY_TENANT) as subscription:
                    try:
                        while len(delivered) + len(subscription.events) < count:
                            await subscription.next()
                            if len(delivered) + len(subscription.events) > count // 4:
                                has_some.set()
                    except grpc.aio.AioRpcError as error:
                        assert error.code() is StatusCode.UNAVAILABLE  # noqa: PT017  # in a loop
                        interruptions += 1
                delivered.extend(subscription.events)
                if subscription.responses:
                    request.after_position = subscription.checkpoint.position
                    request.after_digest = subscription.checkpoint.digest

        async with asyncio.timeout(30):
            tasks = [asyncio.create_task(sail(f"ship {n}")) for n in range(10)]
            tasks.append(asyncio.create_task(follow()))
            await has_some.wait()
            await own.command.kill()
            await own.start_command()
            await asyncio.gather(*tasks)

        everything = await read(own.commands.log, tenant_id=EVERY_TENANT)
        assert delivered == everything.events
        assert [event.position for event in delivered] == list(range(1, count + 1))
        assert chained(delivered) == everything.checkpoint.digest
        assert (interruptions > 0) == (server == "command_service")


async def _until_executed(client: CommandClient, command: Message) -> CommandReceipt:
    """Repeats a command under its command_id until it has a receipt."""
    while True:
        try:
            receipt = await send(client, command, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            assert error.code() is StatusCode.UNAVAILABLE  # noqa: PT017  # in a loop
        else:
            assert isinstance(receipt, CommandReceipt)
            return receipt


# Subscribers that do not read


@pytest.mark.parametrize("server", SERVERS)
async def test_who_does_not_read_holds_nobody_up_and_loses_nothing(
    tmp_path: Path, server: str
) -> None:
    async with deployment(tmp_path) as own:
        source = source_of(own, server)
        wide = LoadCargo(item="𝄞" * 256, quantity=1)
        async with subscribed(source.log, tenant_id=EVERY_TENANT) as slow:
            await slow.next()

            last = await _loaded(own.commands, wide, 3000)
            prompt = await _bounded(_all_up_to(source.log, last))
            receipt = await send(own.commands, of("other", REGISTER))
            await source.holds(receipt)

            await slow.to_position(receipt.position)

        assert len(prompt.events) == 3002
        assert slow.events[:3002] == prompt.events
        assert len(slow.events) == 3003
        assert chained(slow.events) == slow.checkpoint.digest
        largest_pages = SubscribeRequest(max_batch_size=1000)
        whole = await read(source.log, largest_pages, EVERY_TENANT)
        responses = [*prompt.responses, *slow.responses, *whole.responses]
        assert max(response.ByteSize() for response in responses) < MUCH_LARGER_THAN_1_MIB
        assert max(len(response.events) for response in whole.responses) < 1000


async def _loaded(client: CommandClient, load: LoadCargo, times: int) -> int:
    """A ship is loaded so often; returns the last position."""
    await send_all(client, "laden", REGISTER, DOCK)
    requests = [ExecuteRequest(commands=[pack(of("laden", load))] * 500)] * (times // 500)
    call = client.bulk.Execute(requests, metadata=tenant("default"), timeout=30)
    receipts: list[CommandReceipt] = [
        result.receipt async for response in call for result in response.results
    ]
    assert len(receipts) == times
    return receipts[-1].position


async def _all_up_to(log: Any, position: int) -> Subscription:
    async with subscribed(log, tenant_id=EVERY_TENANT) as subscription:
        await subscription.to_position(position)
        return subscription


async def _bounded(reading: Awaitable[Subscription]) -> Subscription:
    async with asyncio.timeout(CALL_S):
        return await reading


# Limits


async def test_beyond_the_limit_of_streams_a_subscription_is_refused(tmp_path: Path) -> None:
    own = Deployment(tmp_path)
    try:
        await own.start_command("--max-streams", "2")
        await own.start_query("--max-streams", "1")
        # One of the command service's streams is the query service's.
        await reached(own.queries.log, (await send(own.commands, of("a", REGISTER))).position)

        for server, limit in zip(SERVERS, (2, 1), strict=True):
            source = source_of(own, server)
            async with subscribed(source.log) as first:
                await first.next()
                failed = await refusal(source.log, SubscribeRequest())
                assert failed.code is StatusCode.RESOURCE_EXHAUSTED
                assert failed.reason == "TOO_MANY_STREAMS"
                assert failed.metadata == {"limit": str(limit)}
                assert failed.retry_after
                # Whoever has a stream keeps it.
                receipt = await send(own.commands, of(f"for {source.server}", REGISTER))
                await first.to_position(receipt.position)
            async with asyncio.timeout(CALL_S):
                assert await _served_at_last(source.log)
    finally:
        await own.close()


async def _served_at_last(log: Any) -> Any:
    """A first response, once a place has become free; it is asked for again and again."""
    while True:
        try:
            return await first_response(log, SubscribeRequest(), "default")
        except grpc.aio.AioRpcError as error:
            assert error.code() is StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017  # in a loop
