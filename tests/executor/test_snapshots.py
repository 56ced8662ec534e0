from collections.abc import Sequence
from dataclasses import replace

import pytest
from google.protobuf.message import Message

from command_service.aggregates.ship import SHIP_RULES
from command_service.aggregates.user import USER_RULES
from command_service.command import CommandTypes
from shared.aggregates.ship import SHIP
from shared.aggregates.user import USER
from shared.errors import Exhausted
from shared.log.log import MAX_PAGE_EVENTS, AggregateKey, EventLog, History
from tests.executor.asking import ask, done, running, turns, within
from tests.executor.commands import (
    change,
    command,
    create,
    depart,
    dock,
    load,
    register,
    unload,
)
from tests.executor.logs import GatedLog
from tests.log.builders import ship, user
from tests.log.reading import versions_of
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import Ship
from tidemark.v1.user_pb2 import User, UserBalanceChanged, UserCreated

DISK_FULL = Exhausted("DISK_FULL", "The disk is full")


async def history_of(log: EventLog, key: AggregateKey, schema: bytes) -> History:
    return (await log.load({key: schema}))[key]


async def start_of(
    log: EventLog, key: AggregateKey, schema: bytes = USER.snapshot_schema
) -> tuple[int, list[int]]:
    """The version of the snapshot that a cold load begins with, and those of the events after."""
    history = await history_of(log, key, schema)
    return (history.snapshot.version if history.snapshot else 0, versions_of(history.records))


async def test_a_snapshot_is_taken_every_so_many_events(log: EventLog) -> None:
    async with running(log, snapshot_every=3) as executor:
        await done(executor, create(), change())
        assert await start_of(log, user()) == (0, [1, 2])
        await done(executor, change())
        assert await start_of(log, user()) == (3, [])
        await done(executor, change(), change())
        assert await start_of(log, user()) == (3, [4, 5])
        await done(executor, change())
        assert await start_of(log, user()) == (6, [])


async def test_snapshots_are_taken_within_a_group_too(log: EventLog) -> None:
    async with running(log, snapshot_every=3) as executor:
        await within(executor.submit([command(each) for each in (create(), *[change()] * 7)]))
        assert await start_of(log, user()) == (6, [7, 8])


async def test_an_aggregate_that_began_with_a_snapshot_has_its_next_one_in_time(
    log: EventLog,
) -> None:
    async with running(log, snapshot_every=3) as executor:
        await done(executor, create(), *[change()] * 3)
    async with running(log, snapshot_every=3) as executor:
        await done(executor, change())
        assert await start_of(log, user()) == (3, [4, 5])
        await done(executor, change())
        assert await start_of(log, user()) == (6, [])


VOYAGE: tuple[Message, ...] = (
    register(),
    dock(),
    load(item="tea", quantity=3),
    load(item="silk", quantity=2),
    unload(item="tea", quantity=3),
    depart(),
    dock(port="Bergen"),
    load(item="rum", quantity=1),
)


@pytest.mark.parametrize("events", range(1, len(VOYAGE) + 1))
@pytest.mark.parametrize("snapshot_every", [1, 2, 3, 5])
async def test_a_snapshot_and_the_events_after_it_are_the_whole_history(
    gated_log: GatedLog, events: int, snapshot_every: int
) -> None:
    async with running(gated_log, snapshot_every=snapshot_every) as executor:
        await done(executor, *VOYAGE[:events])

    history = await history_of(gated_log, ship(), SHIP.snapshot_schema)
    assert len(history.records) == events % snapshot_every
    snapshot = Ship.FromString(history.snapshot.state) if history.snapshot else None
    from_snapshot = folded(snapshot, history.records)
    from_the_beginning = folded(None, await gated_log.read_aggregate(ship()))
    # Times come from the envelope, and no decision reads them.
    from_snapshot.ClearField("updated_at")
    from_the_beginning.ClearField("updated_at")
    assert from_snapshot == from_the_beginning
    assert from_snapshot.version == events


def folded(state: Ship | None, records: Sequence[bytes]) -> Ship:
    for record in records:
        state = SHIP.fold(state, RecordedEvent.FromString(record))
    assert state is not None
    return state


@pytest.mark.parametrize("snapshot_every", [1, 3, 100])
async def test_an_executor_that_begins_with_a_snapshot_decides_as_one_that_does_not(
    log: EventLog, snapshot_every: int
) -> None:
    async with running(log, snapshot_every=snapshot_every) as executor:
        await done(executor, *VOYAGE)
    async with running(log) as executor:
        assert await ask(executor, unload(item="tea")).reason() == "CARGO_NOT_ABOARD"
        assert await ask(executor, unload(item="silk", quantity=3)).reason() == "NOT_ENOUGH_CARGO"
        assert await ask(executor, register()).reason() == "SHIP_ALREADY_REGISTERED"
        assert (await ask(executor, unload(item="silk", quantity=2)).receipt()).version == 9


async def test_a_snapshot_of_another_schema_is_ignored(log: EventLog) -> None:
    def evolve(account: User, event: Message) -> None:
        """Has changed its mind: balances are kept tenfold."""
        match event:
            case UserCreated(balance=balance):
                account.balance = balance * 10
            case UserBalanceChanged(balance_change=by):
                account.balance += by * 10

    newer = replace(USER_RULES, aggregate=replace(USER, evolve=evolve, evolve_version=2))
    async with running(log, snapshot_every=2) as executor:
        await done(executor, create(balance=5), change(by=-1))
        assert await start_of(log, user()) == (2, [])
    assert await start_of(log, user(), newer.aggregate.snapshot_schema) == (0, [1, 2])

    types = CommandTypes([SHIP_RULES, newer])
    async with running(log, snapshot_every=2) as executor:
        poor = ask(executor, command(change(by=-41), types=types))
        assert (await poor.error()).metadata["balance"] == "40"
        assert (await ask(executor, command(change(by=-1), types=types)).receipt()).version == 3
    assert await start_of(log, user(), newer.aggregate.snapshot_schema) == (3, [])


async def test_a_commit_that_fails_leaves_no_snapshot(gated_log: GatedLog) -> None:
    async with running(gated_log, snapshot_every=2) as executor:
        await done(executor, create())
        gated_log.appending.fail_next(DISK_FULL)
        assert await ask(executor, change()).reason() == "DISK_FULL"
        assert await start_of(gated_log, user()) == (0, [1])

        await done(executor, change())
        assert await start_of(gated_log, user()) == (2, [])


async def test_a_snapshot_holds_nothing_of_events_that_failed(gated_log: GatedLog) -> None:
    async with running(gated_log, snapshot_every=3) as executor:
        await done(executor, create(balance=1))
        gated_log.appending.hold(1)
        failing = ask(executor, change(by=100))
        append = await gated_log.appending.arrival()
        following = [ask(executor, change(by=10)) for _ in range(2)]
        await turns()
        append.fail(DISK_FULL)
        assert await failing.reason() == "DISK_FULL"
        assert [(await each.receipt()).version for each in following] == [2, 3]

    history = await history_of(gated_log, user(), USER.snapshot_schema)
    assert history.snapshot is not None
    state = User.FromString(history.snapshot.state)
    assert (state.version, state.balance) == (3, 21)


async def test_a_preview_and_a_refusal_leave_no_snapshot(gated_log: GatedLog) -> None:
    async with running(gated_log, snapshot_every=2) as executor:
        await done(executor, create(), command(change(), validate_only=True))
        assert await ask(executor, change(by=-1)).reason() == "INSUFFICIENT_BALANCE"
        assert await start_of(gated_log, user()) == (0, [1])


async def test_a_history_of_several_pages_is_loaded_whole(log: EventLog) -> None:
    events = 2 * MAX_PAGE_EVENTS + 5
    async with running(log, snapshot_every=events + 1) as executor:
        await within(
            executor.submit([command(each) for each in (create(), *[change()] * (events - 1))])
        )
    async with running(log) as executor:
        error = await ask(executor, change(by=-events)).error()
        assert error.metadata["balance"] == str(events - 1)
        assert (await ask(executor, change()).receipt()).version == events + 1
