"""The promises of `shared.log.log.EventLog`, as tests that every adapter passes.

Each reads: what is given, what happens, what holds then.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TypeVar

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet

from shared.errors import DataLoss
from shared.log.log import (
    EMPTY_DIGEST,
    EVERYTHING,
    MAX_PAGE_BYTES,
    MAX_PAGE_EVENTS,
    Commit,
    Committed,
    Duplicate,
    EventFilter,
    EventLog,
    Head,
    History,
    Page,
    Receipt,
    WrongVersion,
    stamp,
    time_of,
)
from shared.log.memory import MemoryLog
from tests.log.builders import (
    HOUR,
    NOON,
    SECOND,
    Clock,
    assertion,
    command,
    commit,
    event,
    fingerprint,
    ship,
    snapshot,
    user,
)
from tests.log.reading import (
    digests_of,
    events_of,
    parsed,
    positions_of,
    records_of,
    versions_of,
)
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import ShipDeparted, ShipDocked, ShipRegistered
from tidemark.v1.user_pb2 import UserBalanceChanged, UserCreated

PATIENCE_S = 2.0
"""For what is to happen at once, and would otherwise be waited for without end."""

T = TypeVar("T")


def two_tenants() -> list[Commit]:
    """Nine events, of the same ids in two tenants. At the right: their positions."""
    return [
        commit(ship("1"), 0, [ShipRegistered(), ShipDocked()], correlation_id="north"),  # 1, 2
        commit(ship("2"), 0, [ShipRegistered()], correlation_id="south"),  # 3
        commit(user("1"), 0, [UserCreated()], correlation_id="north"),  # 4
        commit(
            ship("1", "zenith"), 0, [ShipRegistered(), ShipDocked()], correlation_id="south"
        ),  # 5, 6
        commit(user("1", "zenith"), 0, [UserCreated()], correlation_id="north"),  # 7
        commit(ship("2"), 1, [ShipDocked()], correlation_id="north"),  # 8
        commit(user("1"), 1, [UserBalanceChanged()], correlation_id="south"),  # 9
    ]


DOCKED = "tidemark.v1.ShipDocked"
REGISTERED = "tidemark.v1.ShipRegistered"
CREATED = "tidemark.v1.UserCreated"

FILTERS = {
    "everything": (EVERYTHING, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
    "a tenant": (EventFilter("zenith"), [5, 6, 7]),
    "an event type": (EventFilter(event_types=frozenset({DOCKED})), [2, 6, 8]),
    "two event types": (EventFilter(event_types=frozenset({DOCKED, CREATED})), [2, 4, 6, 7, 8]),
    "an aggregate type": (EventFilter(aggregate_types=frozenset({"user"})), [4, 7, 9]),
    "two aggregate types": (
        EventFilter(aggregate_types=frozenset({"user", "ship"})),
        [1, 2, 3, 4, 5, 6, 7, 8, 9],
    ),
    "an aggregate id": (EventFilter(aggregate_ids=frozenset({"2"})), [3, 8]),
    "an aggregate id of two types and tenants": (
        EventFilter(aggregate_ids=frozenset({"1"})),
        [1, 2, 4, 5, 6, 7, 9],
    ),
    "a correlation id": (EventFilter(correlation_ids=frozenset({"south"})), [3, 5, 6, 9]),
    "a tenant and an event type": (EventFilter("acme", frozenset({DOCKED})), [2, 8]),
    "a tenant and an aggregate id": (
        EventFilter("zenith", aggregate_ids=frozenset({"1", "2"})),
        [5, 6, 7],
    ),
    "an aggregate type and id": (
        EventFilter(aggregate_types=frozenset({"ship"}), aggregate_ids=frozenset({"1"})),
        [1, 2, 5, 6],
    ),
    "an aggregate id and a correlation id": (
        EventFilter(aggregate_ids=frozenset({"1"}), correlation_ids=frozenset({"south"})),
        [5, 6, 9],
    ),
    "every condition": (
        EventFilter(
            "acme",
            frozenset({DOCKED, REGISTERED}),
            frozenset({"ship"}),
            frozenset({"2"}),
            frozenset({"north"}),
        ),
        [8],
    ),
    "an unknown tenant": (EventFilter("nobody"), []),
    "an unknown event type": (EventFilter(event_types=frozenset({"tidemark.v1.Sunk"})), []),
    "an unknown aggregate id": (EventFilter(aggregate_ids=frozenset({"3"})), []),
    "conditions that only different events pass": (
        EventFilter(event_types=frozenset({CREATED}), aggregate_types=frozenset({"ship"})),
        [],
    ),
}


class LogContract:
    """To be inherited with a fixture `log`: an empty one that takes the time from `clock`."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def origin(self, clock: Clock) -> MemoryLog:
        """Another log, to copy from."""
        return MemoryLog(clock)

    # Append: positions, atomicity, outcomes

    async def test_a_new_log_is_empty(self, log: EventLog) -> None:
        page = await log.read(0)

        assert log.head == Head(0, EMPTY_DIGEST, 0)
        assert page == Page([], 0, EMPTY_DIGEST)

    async def test_the_newest_event_is_the_head(self, log: EventLog) -> None:
        nothing = await log.newest()
        await log.append([commit(ship(), events=2)])

        assert nothing == Head(0, EMPTY_DIGEST, 0)
        assert await log.newest() == log.head
        assert (await log.newest()).position == 2

    async def test_positions_are_contiguous_from_1(self, log: EventLog) -> None:
        first = await log.append([commit(ship("1"), events=2), commit(ship("2"), events=1)])
        second = await log.append([commit(ship("1"), 2, events=3)])

        assert first == [Committed(2), Committed(3)]
        assert second == [Committed(6)]
        assert positions_of(await records_of(log)) == [1, 2, 3, 4, 5, 6]
        assert log.head.position == 6

    async def test_what_is_appended_can_be_read_at_once(self, log: EventLog) -> None:
        appended = commit(ship(), events=[ShipRegistered(name="Aurora"), ShipDocked(port="Oslo")])

        await log.append([appended])

        assert await events_of(log) == list(appended.events)

    async def test_the_log_sets_position_and_time_and_nothing_else(
        self, log: EventLog, clock: Clock
    ) -> None:
        given = event(ship(), 1, ShipDocked(port="Oslo"), caused_by=command(1), correlation_id="c")

        await log.append([Commit(ship(), 0, [RecordedEvent.FromString(given.SerializeToString())])])

        (recorded,) = await events_of(log)
        assert (recorded.position, time_of(recorded)) == (1, clock.now)
        recorded.ClearField("position")
        recorded.ClearField("occurred_at")
        assert recorded == given

    async def test_an_event_that_changes_after_append_does_not_change_the_log(
        self, log: EventLog
    ) -> None:
        appended = commit(ship(), command=command(1))
        await log.append([appended])
        records = await records_of(log)
        receipts = await log.receipts([command(1)])

        appended.events[0].position = 99
        appended.events[0].command_fingerprint = b"another"

        assert await records_of(log) == records
        assert await log.receipts([command(1)]) == receipts

    async def test_appending_nothing_changes_nothing(self, log: EventLog) -> None:
        await log.append([commit(ship())])
        head = log.head

        outcomes = await log.append([])

        assert outcomes == []
        assert log.head == head

    async def test_a_commit_at_the_wrong_version_writes_nothing(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=2)])
        head = log.head

        behind, ahead, absent = (
            await log.append([commit(ship(), 1, events=3, command=command(1))]),
            await log.append([commit(ship(), 3)]),
            await log.append([commit(ship("unknown"), 1)]),
        )

        assert (behind, ahead) == ([WrongVersion(2)], [WrongVersion(2)])
        assert absent == [WrongVersion(0)]
        assert log.head == head
        assert positions_of(await records_of(log)) == [1, 2]
        assert await log.receipts([command(1)]) == {}

    async def test_a_conflict_fails_alone(self, log: EventLog) -> None:
        await log.append([commit(ship("taken"))])

        outcomes = await log.append(
            [commit(ship("1"), events=2), commit(ship("taken"), events=2), commit(ship("2"))]
        )

        assert outcomes == [Committed(3), WrongVersion(1), Committed(4)]
        events = await events_of(log)
        assert [e.position for e in events] == [1, 2, 3, 4]
        assert [e.aggregate_id for e in events] == ["taken", "1", "1", "2"]

    async def test_commits_of_one_call_build_on_each_other(self, log: EventLog) -> None:
        outcomes = await log.append([commit(ship(), 0), commit(ship(), 1, 2), commit(ship(), 3)])

        assert outcomes == [Committed(1), Committed(3), Committed(4)]
        assert versions_of(await log.read_aggregate(ship())) == [1, 2, 3, 4]

    async def test_commits_on_top_of_a_conflict_fail_too(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=2)])

        outcomes = await log.append(
            [
                commit(ship(), 2),
                commit(ship(), 2, command=command(1)),
                commit(ship(), 3, command=command(2)),
                assertion(ship(), 3),
            ]
        )

        assert outcomes == [Committed(3), WrongVersion(3), WrongVersion(3), WrongVersion(3)]
        assert versions_of(await log.read_aggregate(ship())) == [1, 2, 3]
        assert await log.receipts([command(1), command(2)]) == {}

    async def test_a_conflict_is_forgotten_with_its_call(self, log: EventLog) -> None:
        await log.append([commit(ship()), commit(ship(), 5)])

        assert await log.append([commit(ship(), 1)]) == [Committed(2)]

    async def test_of_concurrent_commits_for_one_version_one_wins(self, log: EventLog) -> None:
        attempts = [commit(ship(), command=command(number)) for number in range(8)]

        outcomes = await asyncio.gather(*(log.append([attempt]) for attempt in attempts))

        assert (
            sorted(map(repr, outcomes))
            == ["[Committed(position=1)]"] + ["[WrongVersion(actual=1)]"] * 7
        )
        assert positions_of(await records_of(log)) == [1]

    async def test_the_same_ids_in_two_tenants_are_two_aggregates(self, log: EventLog) -> None:
        outcomes = await log.append([commit(ship("1", "acme"), 0, 2), commit(ship("1", "zenith"))])

        assert outcomes == [Committed(2), Committed(3)]
        assert positions_of(await log.read_aggregate(ship("1", "acme"))) == [1, 2]
        assert positions_of(await log.read_aggregate(ship("1", "zenith"))) == [3]

    async def test_the_same_id_of_two_types_is_two_aggregates(self, log: EventLog) -> None:
        outcomes = await log.append([commit(ship("1")), commit(user("1"))])

        assert outcomes == [Committed(1), Committed(2)]
        assert positions_of(await log.read_aggregate(user("1"))) == [2]

    async def test_an_append_takes_effect_though_its_caller_gives_up(self, log: EventLog) -> None:
        waiter = await _begun(log.wait(0))
        appending = await _begun(log.append([commit(ship(), events=2)]))

        appending.cancel()
        await asyncio.wait_for(waiter, PATIENCE_S)

        assert log.head.position == 2
        assert positions_of(await records_of(log)) == [1, 2]
        assert await log.append([commit(ship(), 2)]) == [Committed(3)]

    # Commits without events

    async def test_a_commit_without_events_asserts_the_version(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=2)])
        head = log.head

        outcomes = await log.append(
            [
                assertion(ship("1"), 0),
                assertion(ship("2"), 1),
                assertion(ship(), 2),
                assertion(ship(), 1),
            ]
        )

        assert outcomes == [Committed(2), WrongVersion(0), Committed(2), WrongVersion(2)]
        assert log.head == head
        assert await log.load({ship("1"): b""}) == {ship("1"): History()}

    async def test_an_assertion_on_an_empty_log_is_at_its_head(self, log: EventLog) -> None:
        assert await log.append([assertion(ship(), 0)]) == [Committed(0)]

    async def test_an_assertion_sees_the_commits_before_it(self, log: EventLog) -> None:
        outcomes = await log.append([commit(ship(), events=2), assertion(ship(), 2)])

        assert outcomes == [Committed(2), Committed(2)]

    async def test_commits_on_top_of_a_failed_assertion_fail_too(self, log: EventLog) -> None:
        outcomes = await log.append([assertion(ship(), 1), commit(ship(), 0), commit(user(), 0)])

        assert outcomes == [WrongVersion(0), WrongVersion(0), Committed(1)]

    async def test_a_commit_without_events_leaves_no_receipt(self, log: EventLog) -> None:
        outcomes = await log.append([Commit(ship(), 0, [], command(1))])

        assert outcomes == [Committed(0)]
        assert await log.receipts([command(1)]) == {}

    async def test_a_commit_without_events_leaves_no_snapshot(self, log: EventLog) -> None:
        await log.append([commit(ship())])

        outcomes = await log.append([Commit(ship(), 1, [], None, snapshot(1)), commit(user())])

        assert outcomes == [Committed(1), Committed(2)]
        histories = await log.load({ship(): b"schema 1"})
        assert histories[ship()].snapshot is None

    # Receipts and duplicates

    async def test_a_receipt_says_what_the_command_did(self, log: EventLog) -> None:
        await log.append([commit(ship("1")), commit(ship("2"), events=3, command=command(1))])

        receipts = await log.receipts([command(1), command(2)])

        assert receipts == {command(1): Receipt("2", 3, 4, fingerprint(command(1)))}

    async def test_a_repeated_command_writes_nothing(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=2, command=command(1))])
        head = log.head

        outcomes = await log.append([commit(ship(), 2, command=command(1))])

        assert outcomes == [Duplicate(Receipt("aurora", 2, 2, fingerprint(command(1))))]
        assert log.head == head
        assert positions_of(await records_of(log)) == [1, 2]

    async def test_a_repetition_is_a_duplicate_before_it_is_a_conflict(self, log: EventLog) -> None:
        repeated = commit(ship(), command=command(1))
        await log.append([repeated])
        await log.append([commit(ship(), 1)])

        outcomes = await log.append([repeated])

        assert outcomes == [Duplicate(Receipt("aurora", 1, 1, fingerprint(command(1))))]

    async def test_a_command_for_another_aggregate_is_still_a_duplicate(
        self, log: EventLog
    ) -> None:
        await log.append([commit(ship("1"), command=command(1))])

        outcomes = await log.append([commit(ship("2"), command=command(1))])

        assert outcomes == [Duplicate(Receipt("1", 1, 1, fingerprint(command(1))))]
        assert await log.read_aggregate(ship("2")) == []

    async def test_a_duplicate_within_one_call_is_recognized(self, log: EventLog) -> None:
        outcomes = await log.append(
            [
                commit(ship("1"), events=2, command=command(1)),
                commit(ship("1"), 2, command=command(1)),
                commit(ship("2"), command=command(1)),
                commit(ship("3"), command=command(2)),
            ]
        )

        duplicate = Duplicate(Receipt("1", 2, 2, fingerprint(command(1))))
        assert outcomes == [Committed(2), duplicate, duplicate, Committed(3)]
        assert positions_of(await records_of(log)) == [1, 2, 3]

    async def test_a_duplicate_fails_alone_but_for_what_is_on_top_of_it(
        self, log: EventLog
    ) -> None:
        await log.append([commit(ship(), command=command(1))])

        outcomes = await log.append(
            [
                commit(ship(), 1, command=command(1)),
                commit(ship(), 1),
                commit(ship(), 2),
                commit(user()),
            ]
        )

        duplicate = Duplicate(Receipt("aurora", 1, 1, fingerprint(command(1))))
        assert outcomes == [duplicate, WrongVersion(1), WrongVersion(1), Committed(2)]

    async def test_of_a_command_sent_twice_at_once_one_takes_effect(self, log: EventLog) -> None:
        first, second = await asyncio.gather(
            log.append([commit(ship("1"), command=command(1))]),
            log.append([commit(ship("2"), command=command(1))]),
        )

        kinds = {type(outcome) for outcome in first + second}
        assert kinds == {Committed, Duplicate}
        assert positions_of(await records_of(log)) == [1]

    async def test_one_command_id_in_two_tenants_is_two_commands(self, log: EventLog) -> None:
        acme, zenith = command(1, "acme"), command(1, "zenith")

        outcomes = await log.append(
            [
                commit(ship("1", "acme"), command=acme),
                commit(ship("2", "zenith"), events=2, command=zenith),
            ]
        )

        assert outcomes == [Committed(1), Committed(3)]
        assert await log.receipts([acme, zenith, command(1, "third")]) == {
            acme: Receipt("1", 1, 1, fingerprint(acme)),
            zenith: Receipt("2", 2, 3, fingerprint(zenith)),
        }

    async def test_a_rejected_command_may_come_again(self, log: EventLog) -> None:
        await log.append([commit(ship(), 7, command=command(1))])

        assert await log.append([commit(ship(), 0, command=command(1))]) == [Committed(1)]

    async def test_a_commit_without_a_command_leaves_no_receipt(self, log: EventLog) -> None:
        await log.append([commit(ship("1")), commit(ship("2"), command=command(1))])

        assert await log.append([commit(ship("1"), 1)]) == [Committed(3)]
        assert set(await log.receipts([command(0), command(1)])) == {command(1)}

    # Records, digests and times

    async def test_a_record_begins_with_the_position_and_ascends(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=300, command=command(1), correlation_id="request")])

        for position, record in enumerate(await records_of(log), start=1):
            found = UnknownFieldSet(Empty.FromString(record))
            fields = [found[index] for index in range(len(found))]
            assert record[0] == 0x08  # Field 1, a varint.
            assert fields[0].data == position
            assert [field.field_number for field in fields] == list(range(1, 13))

    async def test_a_parsed_record_serializes_to_the_same_bytes(self, log: EventLog) -> None:
        await log.append([*two_tenants(), commit(ship("3"), events=2, command=command(1))])

        for record in await records_of(log):
            assert RecordedEvent.FromString(record).SerializeToString() == record

    async def test_digests_chain_the_stored_bytes(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=2), commit(user(), 9)])
        await log.append([commit(ship(), 2), commit(user())])

        digests = digests_of(await records_of(log))
        assert len(digests) == 5
        assert [await log.digest_at(position) for position in range(5)] == digests
        assert [(await log.read(0, limit)).digest for limit in range(1, 5)] == digests[1:]
        assert log.head.digest == digests[4]

    async def test_there_is_no_digest_beyond_the_head(self, log: EventLog) -> None:
        before = await log.digest_at(0), await log.digest_at(1)

        await log.append([commit(ship())])

        assert before == (EMPTY_DIGEST, None)
        assert await log.digest_at(0) == EMPTY_DIGEST
        assert await log.digest_at(1) == log.head.digest
        assert await log.digest_at(2) is None

    @pytest.mark.parametrize(
        ("change", "later"),
        [
            pytest.param(0, 2, id="the clock stands still"),
            pytest.param(-HOUR, 2, id="the clock jumps back an hour"),
            pytest.param(1, 2, id="the clock is late by a microsecond"),
            pytest.param(HOUR, HOUR, id="the clock jumps forward"),
        ],
    )
    async def test_times_increase_whatever_the_clock_does(
        self, log: EventLog, clock: Clock, change: int, later: int
    ) -> None:
        await log.append([commit(ship(), events=2)])

        clock.now += change
        await log.append([commit(ship(), 2, events=2), commit(user())])

        times = [time_of(e) - NOON for e in await events_of(log)]
        assert times == [0, 1, later, later + 1, later + 2]
        assert log.head.time == NOON + later + 2

    async def test_times_follow_the_clock_again_once_it_has_caught_up(
        self, log: EventLog, clock: Clock
    ) -> None:
        await log.append([commit(ship())])
        clock.now -= HOUR
        await log.append([commit(ship(), 1)])

        clock.now += HOUR + SECOND
        await log.append([commit(ship(), 2)])

        assert [time_of(e) - NOON for e in await events_of(log)] == [0, 1, SECOND]

    async def test_a_time_is_a_position(self, log: EventLog, clock: Clock) -> None:
        for version in range(3):
            clock.now = NOON + version * SECOND
            await log.append([commit(ship(), version)])

        found = {
            after: await log.position_at(NOON + after)
            for after in (-HOUR, -1, 0, 1, SECOND - 1, SECOND, 2 * SECOND - 1, 2 * SECOND, HOUR)
        }

        assert found == {
            -HOUR: 0,
            -1: 0,
            0: 1,
            1: 1,
            SECOND - 1: 1,
            SECOND: 2,
            2 * SECOND - 1: 2,
            2 * SECOND: 3,
            HOUR: 3,
        }

    async def test_neighbouring_microseconds_are_different_positions(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=40)])

        assert [await log.position_at(NOON + i) for i in range(40)] == list(range(1, 41))

    async def test_before_1970_there_was_no_event(self, log: EventLog) -> None:
        await log.append([commit(ship())])

        assert await log.position_at(-1) == 0

    async def test_an_empty_log_has_no_position_at_any_time(self, log: EventLog) -> None:
        assert await log.position_at(NOON) == 0

    async def test_event_time_is_that_of_the_next_event(self, log: EventLog, clock: Clock) -> None:
        nothing = await log.event_time(0)
        await log.append([commit(ship())])
        clock.now += HOUR
        await log.append([commit(ship(), 1)])

        found = [await log.event_time(after) for after in range(4)]

        assert nothing is None
        assert found == [NOON, NOON + HOUR, None, None]

    # Reading

    async def test_pages_are_limited_in_records(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=5)])
        digests = digests_of(await records_of(log))

        pages = [await log.read(after, 2) for after in (0, 2, 4)]

        assert [positions_of(page.records) for page in pages] == [[1, 2], [3, 4], [5]]
        assert [page.position for page in pages] == [2, 4, 5]
        assert [page.digest for page in pages] == [digests[2], digests[4], digests[5]]

    async def test_a_page_has_at_most_1000_records(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=MAX_PAGE_EVENTS + 1)])

        page = await log.read(0)
        rest = await log.read(page.position)

        assert positions_of(page.records) == list(range(1, MAX_PAGE_EVENTS + 1))
        assert positions_of(rest.records) == [MAX_PAGE_EVENTS + 1]

    @pytest.mark.parametrize("event_filter", [EVERYTHING, EventFilter("acme")])
    async def test_a_page_ends_with_the_record_that_reaches_1_mib(
        self, log: EventLog, event_filter: EventFilter
    ) -> None:
        third = ShipRegistered(name="x" * (MAX_PAGE_BYTES // 3))
        await log.append([commit(ship(), events=[third] * 4)])

        page = await log.read(0, event_filter=event_filter)
        rest = await log.read(page.position, event_filter=event_filter)

        assert [positions_of(page.records), page.position] == [[1, 2, 3], 3]
        assert [positions_of(rest.records), rest.position] == [[4], 4]

    @pytest.mark.parametrize("event_filter", [EVERYTHING, EventFilter("acme")])
    async def test_a_record_over_1_mib_is_a_page(
        self, log: EventLog, event_filter: EventFilter
    ) -> None:
        large = ShipRegistered(name="x" * (MAX_PAGE_BYTES + 1))
        await log.append([commit(ship(), events=[large, large])])

        assert positions_of((await log.read(0, event_filter=event_filter)).records) == [1]
        assert positions_of(await records_of(log, event_filter)) == [1, 2]

    @pytest.mark.parametrize("after", [3, 9])
    async def test_at_the_head_and_beyond_it_a_page_is_empty(
        self, log: EventLog, after: int
    ) -> None:
        await log.append([commit(ship(), events=3)])

        page = await log.read(after)
        filtered = await log.read(after, event_filter=EventFilter("acme"))

        assert page == Page([], after, log.head.digest)
        assert filtered == page

    @pytest.mark.parametrize("limit", [1, 2, MAX_PAGE_EVENTS])
    @pytest.mark.parametrize(("event_filter", "expected"), FILTERS.values(), ids=FILTERS.keys())
    async def test_a_filter_selects_what_passes_every_condition(
        self, log: EventLog, event_filter: EventFilter, expected: list[int], limit: int
    ) -> None:
        await log.append(two_tenants())

        assert positions_of(await records_of(log, event_filter, limit)) == expected

    async def test_a_filtered_page_has_the_digest_of_the_whole_log(self, log: EventLog) -> None:
        await log.append(two_tenants())
        digests = digests_of(await records_of(log))

        pages = [await log.read(0, limit, EventFilter("zenith")) for limit in (1, 2, 9)]

        assert [page.position for page in pages] == [5, 6, 9]
        assert [page.digest for page in pages] == [digests[5], digests[6], digests[9]]

    @pytest.mark.parametrize(
        ("event_filter", "until", "expected"),
        [
            (EVERYTHING, 0, []),
            (EVERYTHING, 1, [1]),
            (EVERYTHING, 6, [1, 2, 3, 4, 5, 6]),
            (EVERYTHING, 9, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
            (EventFilter("zenith"), 0, []),
            (EventFilter("zenith"), 4, []),
            (EventFilter("zenith"), 6, [5, 6]),
            (EventFilter("zenith"), 9, [5, 6, 7]),
        ],
    )
    async def test_a_page_ends_at_a_position_that_is_given(
        self, log: EventLog, event_filter: EventFilter, until: int, expected: list[int]
    ) -> None:
        await log.append(two_tenants())

        page = await log.read(0, event_filter=event_filter, until=until)

        assert positions_of(page.records) == expected
        assert page.position == until
        assert page.digest == await log.digest_at(until)

    async def test_a_limit_counts_before_the_position_that_is_given(self, log: EventLog) -> None:
        await log.append(two_tenants())

        page = await log.read(1, 2, until=8)
        filtered = await log.read(1, 2, EventFilter("acme"), until=8)
        nothing = await log.read(4, 2, until=4)

        assert (positions_of(page.records), page.position) == ([2, 3], 3)
        assert (positions_of(filtered.records), filtered.position) == ([2, 3], 3)
        assert (nothing.records, nothing.position) == ([], 4)

    @pytest.mark.parametrize("event_filter", [EVERYTHING, EventFilter("zenith")])
    async def test_a_page_does_not_move_past_the_head(
        self, log: EventLog, event_filter: EventFilter
    ) -> None:
        await log.append([commit(ship())])
        page = await log.read(0, event_filter=event_filter, until=5)

        await log.append([commit(ship(tenant_id="zenith"))])
        rest = await log.read(page.position, event_filter=event_filter)

        assert page.position == 1
        assert positions_of(rest.records) == [2]

    async def test_a_page_moves_past_what_is_filtered_out(self, log: EventLog) -> None:
        await log.append(two_tenants())

        page = await log.read(0, event_filter=EventFilter("zenith"))
        nothing = await log.read(0, event_filter=EventFilter("nobody"))

        assert (positions_of(page.records), page.position) == ([5, 6, 7], 9)
        assert (nothing.records, nothing.position) == ([], 9)

    async def test_a_full_page_does_not_move_past_what_it_has_no_room_for(
        self, log: EventLog
    ) -> None:
        await log.append(two_tenants())

        page = await log.read(0, 2, EventFilter("zenith"))
        rest = await log.read(page.position, 2, EventFilter("zenith"))

        assert positions_of(page.records) == [5, 6]
        assert page.position == 6
        assert positions_of(rest.records) == [7]

    # Aggregates

    async def test_an_aggregate_is_read_by_version(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=2), commit(user()), commit(ship(), 2, events=2)])

        records = await log.read_aggregate(ship())

        assert versions_of(records) == [1, 2, 3, 4]
        assert positions_of(records) == [1, 2, 4, 5]
        assert set(records) < set(await records_of(log))

    async def test_an_unknown_aggregate_has_no_records(self, log: EventLog) -> None:
        await log.append([commit(ship())])

        assert await log.read_aggregate(ship("unknown")) == []
        assert await log.read_aggregate(ship(tenant_id="zenith")) == []

    @pytest.mark.parametrize(
        ("after_version", "until_position", "expected"),
        [
            (0, 0, []),
            (0, 1, [1]),
            (0, 3, [1, 2]),
            (0, 4, [1, 2, 3]),
            (0, 99, [1, 2, 3, 4]),
            (2, None, [3, 4]),
            (2, 4, [3]),
            (3, 4, []),
            (4, None, []),
            (9, None, []),
        ],
    )
    async def test_an_aggregate_is_read_after_a_version_until_a_position(
        self,
        log: EventLog,
        after_version: int,
        until_position: int | None,
        expected: Sequence[int],
    ) -> None:
        await log.append([commit(ship(), events=2), commit(user()), commit(ship(), 2, events=2)])

        records = await log.read_aggregate(ship(), after_version, until_position)

        assert versions_of(records) == expected

    async def test_an_aggregate_is_read_in_pages(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=MAX_PAGE_EVENTS + 2)])

        page = await log.read_aggregate(ship())
        rest = await log.read_aggregate(ship(), MAX_PAGE_EVENTS)
        bounded = await log.read_aggregate(ship(), 1, MAX_PAGE_EVENTS + 1)

        assert versions_of(page) == list(range(1, MAX_PAGE_EVENTS + 1))
        assert versions_of(rest) == [MAX_PAGE_EVENTS + 1, MAX_PAGE_EVENTS + 2]
        assert versions_of(bounded) == list(range(2, MAX_PAGE_EVENTS + 2))

    # Load and snapshots

    async def test_an_unknown_aggregate_loads_as_nothing(self, log: EventLog) -> None:
        assert await log.load({ship(): b"schema 1"}) == {ship(): History(None, [])}

    async def test_each_aggregate_is_loaded_for_itself(self, log: EventLog) -> None:
        kept = snapshot(1, state=b"acme")
        await log.append(
            [commit(ship(), snapshot=kept), commit(user()), commit(ship(tenant_id="zenith"))]
        )

        histories = await log.load(
            {
                ship(): b"schema 1",
                user(): b"schema 1",
                ship(tenant_id="zenith"): b"schema 1",
                ship("unknown"): b"schema 1",
            }
        )

        first, second, third = await records_of(log)
        assert first not in (second, third)
        assert histories == {
            ship(): History(kept, []),
            user(): History(None, [second]),
            ship(tenant_id="zenith"): History(None, [third]),
            ship("unknown"): History(None, []),
        }

    async def test_loading_begins_with_the_snapshot(self, log: EventLog) -> None:
        kept = snapshot(2)

        await log.append([commit(ship(), events=2, snapshot=kept)])
        await log.append([commit(ship(), 2, events=2)])

        histories = await log.load({ship(): b"schema 1"})
        assert histories[ship()].snapshot == kept
        assert versions_of(histories[ship()].records) == [3, 4]

    async def test_a_snapshot_of_another_schema_is_ignored(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=2, snapshot=snapshot(2)), commit(ship(), 2)])

        histories = await log.load({ship(): b"schema 2"})

        assert histories[ship()].snapshot is None
        assert versions_of(histories[ship()].records) == [1, 2, 3]

    async def test_the_newest_snapshot_wins(self, log: EventLog) -> None:
        newest = snapshot(3, state=b"newest")
        await log.append([commit(ship(), snapshot=snapshot(1))])

        await log.append(
            [
                commit(ship(), 1, snapshot=snapshot(2, state=b"newer")),
                commit(ship(), 2, snapshot=newest),
                commit(ship(), 3),
            ]
        )

        histories = await log.load({ship(): b"schema 1"})
        assert histories[ship()].snapshot == newest
        assert versions_of(histories[ship()].records) == [4]

    async def test_a_snapshot_of_a_newer_schema_takes_the_place_of_the_old(
        self, log: EventLog
    ) -> None:
        await log.append([commit(ship(), snapshot=snapshot(1, schema=b"schema 1"))])

        newer = snapshot(2, schema=b"schema 2")
        await log.append([commit(ship(), 1, snapshot=newer)])

        histories = await log.load({ship(): b"schema 2"})
        assert histories == {ship(): History(newer, [])}

    async def test_a_failed_commit_leaves_no_snapshot(self, log: EventLog) -> None:
        kept = snapshot(1, state=b"kept")
        await log.append([commit(ship(), command=command(1), snapshot=kept)])

        outcomes = await log.append(
            [
                commit(ship(), 1, command=command(1), snapshot=snapshot(2)),
                commit(ship(), 2, snapshot=snapshot(3)),
                commit(user(), 1, snapshot=snapshot(2)),
                commit(user("bob")),
            ]
        )

        assert [type(outcome) for outcome in outcomes] == [
            Duplicate,
            WrongVersion,
            WrongVersion,
            Committed,
        ]
        assert await log.load({ship(): b"schema 1", user(): b"schema 1"}) == {
            ship(): History(kept, []),
            user(): History(None, []),
        }

    async def test_a_long_history_loads_as_its_first_page(self, log: EventLog) -> None:
        await log.append([commit(ship(), snapshot=snapshot(1))])
        await log.append([commit(ship(), 1, events=MAX_PAGE_EVENTS + 1)])

        histories = await log.load({ship(): b"schema 1"})

        assert versions_of(histories[ship()].records) == list(range(2, MAX_PAGE_EVENTS + 2))

    async def test_snapshots_are_listed_page_by_page_each_aggregate_once(
        self, log: EventLog
    ) -> None:
        assert await log.snapshots() == {}
        keys = [ship("1"), user("1"), ship("1", "zenith"), ship("2"), ship("é")]
        for version, state in enumerate((b"old", b"new")):
            await log.append(
                [commit(key, version, snapshot=snapshot(version + 1, state=state)) for key in keys]
            )
        await log.append([commit(ship("3"))])

        pages = [await log.snapshots(None, 2)]
        while pages[-1]:
            pages.append(await log.snapshots(list(pages[-1])[-1], 2))

        assert [len(page) for page in pages] == [2, 2, 1, 0]
        listed = [item for page in pages for item in page.items()]
        expected = [ship("1"), ship("1", "zenith"), user("1"), ship("2"), ship("é")]
        assert listed == [(key, snapshot(2, state=b"new")) for key in expected]
        assert await log.snapshots() == dict(listed)

    async def test_snapshots_of_the_log_that_was_copied_can_be_kept(
        self, log: EventLog, origin: MemoryLog
    ) -> None:
        await origin.append([commit(ship(), events=3, snapshot=snapshot(2)), commit(user())])
        await log.copy(await records_of(origin))

        await log.keep({ship(): snapshot(1, state=b"to be replaced")})
        await log.keep(await origin.snapshots())

        histories = await log.load({ship(): b"schema 1", user(): b"schema 1"})
        assert histories[ship()].snapshot == snapshot(2)
        assert versions_of(histories[ship()].records) == [3]
        assert histories[user()] == History(None, (await records_of(log))[3:])
        assert await log.snapshots() == {ship(): snapshot(2)}
        assert await log.append([commit(ship(), 3)]) == [Committed(5)]

    # Waiting

    async def test_waiting_before_the_head_returns_at_once(self, log: EventLog) -> None:
        await log.append([commit(ship(), events=2)])

        await asyncio.wait_for(log.wait(0), PATIENCE_S)
        await asyncio.wait_for(log.wait(1), PATIENCE_S)

    async def test_appending_wakes_those_who_wait_for_it_and_nobody_else(
        self, log: EventLog
    ) -> None:
        # Both are told of each move of the head, the one who waits for more first.
        patient, waiter = await _begun(log.wait(1)), await _begun(log.wait(0))

        await log.append([assertion(ship(), 0), commit(user(), 5)])
        woken_by_nothing = waiter.done()
        await log.append([commit(ship())])
        await asyncio.wait_for(waiter, PATIENCE_S)
        woken_early = patient.done()
        await log.append([commit(ship(), 1)])
        await asyncio.wait_for(patient, PATIENCE_S)

        assert not woken_by_nothing
        assert not woken_early

    async def test_copying_wakes_those_who_wait_for_it_and_nobody_else(
        self, log: EventLog, origin: MemoryLog
    ) -> None:
        await origin.append([commit(ship(), events=3)])
        records = await records_of(origin)
        patient, waiter = await _begun(log.wait(2)), await _begun(log.wait(1))

        await log.copy(records[:2])
        await asyncio.wait_for(waiter, PATIENCE_S)
        woken_early = patient.done()
        await log.copy(records[2:])
        await asyncio.wait_for(patient, PATIENCE_S)

        assert not woken_early

    # Copying

    async def test_a_copy_is_equal_byte_for_byte(self, log: EventLog, origin: MemoryLog) -> None:
        await origin.append(two_tenants())
        records = await records_of(origin)

        await log.copy(records[:4])
        await log.copy([])
        await log.copy(records[4:])

        assert await records_of(log) == records
        assert log.head == origin.head
        assert [await log.digest_at(p) for p in range(10)] == digests_of(records)

    async def test_a_copy_can_be_copied(self, log: EventLog, clock: Clock) -> None:
        await log.append(two_tenants())

        copy = MemoryLog(clock)
        await copy.copy(await records_of(log))

        assert copy.head == log.head
        assert await records_of(copy) == await records_of(log)

    @pytest.mark.parametrize(("event_filter", "expected"), FILTERS.values(), ids=FILTERS.keys())
    async def test_a_copy_is_filtered_like_its_origin(
        self, log: EventLog, origin: MemoryLog, event_filter: EventFilter, expected: list[int]
    ) -> None:
        await origin.append(two_tenants())

        await log.copy(await records_of(origin))

        assert positions_of(await records_of(log, event_filter)) == expected

    async def test_a_copy_has_the_aggregates_and_times_of_its_origin(
        self, log: EventLog, origin: MemoryLog
    ) -> None:
        await origin.append(two_tenants())

        await log.copy(await records_of(origin))

        for key in (ship("1"), ship("2"), user("1"), ship("1", "zenith"), user("1", "zenith")):
            assert await log.read_aggregate(key) == await origin.read_aggregate(key) != []
        assert [await log.position_at(NOON + i) for i in range(9)] == list(range(1, 10))
        assert [await log.event_time(i) for i in range(9)] == [NOON + i for i in range(9)]

    async def test_a_copy_has_the_receipts_of_its_origin(
        self, log: EventLog, origin: MemoryLog
    ) -> None:
        acme, zenith = command(1, "acme"), command(1, "zenith")
        await origin.append([commit(ship("1"), command=acme), commit(ship("2"))])
        await origin.append([commit(ship("3", "zenith"), events=3, command=zenith)])
        records = await records_of(origin)

        # The events of the last command come in two pages.
        await log.copy(records[:3])
        await log.copy(records[3:])

        receipts = await log.receipts([acme, zenith, command(2)])
        assert receipts == {
            acme: Receipt("1", 1, 1, fingerprint(acme)),
            zenith: Receipt("3", 3, 5, fingerprint(zenith)),
        }
        assert receipts == await origin.receipts([acme, zenith, command(2)])

    async def test_a_copy_can_be_promoted(
        self, log: EventLog, origin: MemoryLog, clock: Clock
    ) -> None:
        await origin.append([commit(ship(), events=2, command=command(1)), commit(user())])
        await log.copy(await records_of(origin))

        clock.now -= HOUR
        outcomes = await log.append(
            [
                commit(user(), 1),
                commit(ship(), 2, command=command(1)),
                commit(user("bob"), command=command(2)),
                commit(user(), 1),
            ]
        )

        assert outcomes == [
            Committed(4),
            Duplicate(Receipt("aurora", 2, 2, fingerprint(command(1)))),
            Committed(5),
            WrongVersion(2),
        ]
        records = await records_of(log)
        assert [time_of(e) - NOON for e in parsed(records)] == [0, 1, 2, 3, 4]
        assert log.head.digest == digests_of(records)[-1]

    async def test_a_copy_keeps_positions_that_are_not_contiguous(self, log: EventLog) -> None:
        records = [
            stamp(event(ship(), version, ShipDeparted()), 10 * version, NOON + 10 * version)
            for version in (1, 2, 3)
        ]
        digests = digests_of(records)

        await log.copy(records)

        pages = [await log.read(after, 1) for after in (0, 10, 15, 25)]
        assert [positions_of(page.records) for page in pages] == [[10], [20], [20], [30]]
        assert [await log.position_at(NOON + t) for t in (9, 10, 29, 30)] == [0, 10, 20, 30]
        assert [await log.digest_at(p) for p in (9, 10, 29, 30)] == digests
        assert [await log.event_time(p) for p in (0, 19, 20)] == [NOON + t for t in (10, 20, 30)]
        assert await log.append([commit(ship(), 3)]) == [Committed(31)]

    async def test_a_copy_that_leads_to_the_digest_is_taken(
        self, log: EventLog, origin: MemoryLog
    ) -> None:
        await origin.append(two_tenants())
        first = await origin.read(0, 4)
        second = await origin.read(first.position)

        await log.copy(first.records, first.digest)
        await log.copy([], first.digest)
        await log.copy(second.records, second.digest)

        assert log.head == origin.head

    async def test_a_copy_that_does_not_lead_to_the_digest_is_refused(
        self, log: EventLog, origin: MemoryLog
    ) -> None:
        await origin.append(two_tenants())
        records = await records_of(origin)
        digests = digests_of(records)
        await log.copy(records[:2])
        head = log.head

        altered = records[3].replace(b"harbour", b"Harbour")
        for refused, digest in (
            (records[3:5], digests[5]),  # One is skipped.
            (records[2:4], digests[5]),  # The last is missing.
            ([records[2], altered, records[4]], digests[5]),
            ([], digests[3]),
        ):
            with pytest.raises(DataLoss) as refusal:
                await log.copy(refused, digest)

            assert refusal.value.reason == "LOG_DIVERGED"
            assert log.head == head
            assert await records_of(log) == records[:2]
        await log.copy(records[2:], digests[-1])
        assert log.head == origin.head

    @pytest.mark.parametrize(
        ("version", "position", "time"),
        [
            pytest.param(4, 3, 3, id="the position of the head"),
            pytest.param(4, 2, 3, id="a position before the head"),
            pytest.param(4, 0, 3, id="no position"),
            pytest.param(4, 4, 2, id="the time of the head"),
            pytest.param(4, 4, 1, id="a time before the head"),
            pytest.param(3, 4, 3, id="a version that the aggregate has already"),
        ],
    )
    @pytest.mark.parametrize("good_ones_before", [0, 1])
    async def test_a_copy_refuses_what_does_not_follow(
        self, log: EventLog, version: int, position: int, time: int, good_ones_before: int
    ) -> None:
        await log.append([commit(ship(), events=3)])
        head, records = log.head, await records_of(log)
        good = stamp(event(ship(), 4, ShipDeparted()), 4, NOON + 3)
        bad = stamp(
            event(ship(), version + good_ones_before, ShipDeparted()),
            position + good_ones_before,
            NOON + time + good_ones_before,
        )

        with pytest.raises(DataLoss) as refusal:
            await log.copy([good] * good_ones_before + [bad])

        assert refusal.value.reason == "LOG_DIVERGED"
        assert log.head == head
        assert await records_of(log) == records
        await log.copy([good])
        assert log.head.position == 4

    # Readers and writers at once

    @pytest.mark.parametrize("event_filter", [EVERYTHING, EventFilter("acme")])
    async def test_no_reader_meets_an_event_below_a_position_that_it_has_passed(
        self, log: EventLog, event_filter: EventFilter
    ) -> None:
        rounds, seen, reads_meanwhile = 60, list[bytes](), 0

        async def write(tenant_id: str) -> None:
            for version in range(0, 3 * rounds, 3):
                key = ship(tenant_id=tenant_id)
                conflict = commit(user(tenant_id=tenant_id), 1)
                outcomes = await log.append(
                    [commit(key, version, 2), conflict, commit(key, version + 2)]
                )
                assert [type(o) for o in outcomes] == [Committed, WrongVersion, Committed]
                await asyncio.sleep(0)  # The memory never gives way by itself.

        async def read() -> None:
            nonlocal reads_meanwhile
            position = 0
            while position < 2 * 3 * rounds:
                await log.wait(position)
                page = await log.read(position, 2, event_filter)
                assert all(position < p <= page.position for p in positions_of(page.records))
                seen.extend(page.records)
                position = page.position
                reads_meanwhile += log.head.position < 2 * 3 * rounds

        await asyncio.wait_for(asyncio.gather(write("acme"), read(), write("zenith")), 60)

        assert seen == await records_of(log, event_filter)
        assert len(seen) == 3 * rounds * (2 if event_filter == EVERYTHING else 1)
        assert reads_meanwhile > rounds / 2


async def _begun(work: Coroutine[object, object, T]) -> asyncio.Task[T]:
    """A task that has come to where the work first waits."""
    begun = asyncio.Event()

    async def run() -> T:
        begun.set()
        return await work

    task = asyncio.create_task(run())
    await begun.wait()
    return task
