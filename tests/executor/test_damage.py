"""What cannot be decided, because of what is stored or because of the rules, stays alone."""

import sqlite3
from collections.abc import MutableMapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from shared.aggregates.aggregate import TYPE_URL_PREFIX, pack
from shared.errors import DataLoss, Internal, Unavailable
from shared.log.log import AggregateKey, Commit, Committed, EventLog
from shared.log.sqlite import SqliteLog
from tests.executor.asking import ask, done, running, turns
from tests.executor.commands import TENANT, change, command, create, depart, dock, load, register
from tests.executor.logs import GatedLog
from tests.executor.recorded import payloads_of
from tests.executor.surprises import BERMUDA, LIMBO, REEF, SURPRISING
from tests.log.builders import ship
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import ShipDeparted, ShipDocked, ShipRegistered
from tidemark.v1.user_pb2 import UserCreated

# What is stored


async def given(log: EventLog, *versions: tuple[int, Message | AnyMessage]) -> None:
    """A ship's history, as the log got it from wherever."""
    for count, (version, payload) in enumerate(versions):
        recorded = RecordedEvent(
            event_id=str(count),
            tenant_id=TENANT,
            aggregate_type="ship",
            aggregate_id="damaged",
            version=version,
            payload=payload if isinstance(payload, AnyMessage) else pack(payload),
        )
        key = AggregateKey(TENANT, "ship", "damaged")
        [outcome] = await log.append([Commit(key, count, [recorded])])
        assert isinstance(outcome, Committed)


REGISTERED = ShipRegistered(name="Damaged")
DOCKED = ShipDocked(port="Oslo")
GARBLED = AnyMessage(type_url=pack(DOCKED).type_url, value=b"\xff")
UNHEARD_OF = AnyMessage(type_url=TYPE_URL_PREFIX + "tidemark.v1.ShipSunk", value=b"")


@pytest.mark.parametrize(
    "history",
    [
        [(1, DOCKED)],
        [(1, REGISTERED), (3, DOCKED)],
        [(2, REGISTERED)],
        [(1, REGISTERED), (2, GARBLED)],
    ],
    ids=["no creation", "a gap", "no beginning", "a garbled payload"],
)
async def test_a_history_that_cannot_be_is_told_and_stops_that_aggregate_alone(
    log: EventLog, history: Sequence[tuple[int, Message | AnyMessage]]
) -> None:
    await given(log, *history)
    before = log.head.position
    async with running(log) as executor:
        for _ in range(2):
            damaged, sound = ask(executor, dock("damaged")), ask(executor, create())
            error = await damaged.error()
            assert isinstance(error, DataLoss)
            assert error.reason == "LOG_CORRUPT"
            await sound.answer()
        assert (await ask(executor, change()).receipt()).version == 2
    assert log.head.position == before + 2


@pytest.mark.parametrize("unknown", [UNHEARD_OF, pack(UserCreated(username="Ada"))])
async def test_an_event_of_an_unknown_type_makes_that_aggregate_alone_unavailable(
    log: EventLog, unknown: AnyMessage
) -> None:
    await given(log, (1, REGISTERED), (2, unknown))
    async with running(log) as executor:
        newer, sound = ask(executor, dock("damaged")), ask(executor, create())
        error = await newer.error()
        assert isinstance(error, Unavailable)
        assert error.reason == "UNKNOWN_EVENT"
        assert (await sound.receipt()).version == 1


async def test_a_record_that_is_no_message_is_damage_too(gated_log: GatedLog) -> None:
    async with running(gated_log) as executor:
        await done(executor, register(), dock())
    gated_log.damage_record(2)
    async with running(gated_log) as executor:
        damaged, sound = ask(executor, depart()), ask(executor, create())
        assert (await sound.receipt()).version == 1
        error = await damaged.error()
        assert isinstance(error, DataLoss)
        assert error.reason == "LOG_CORRUPT"


async def test_a_snapshot_that_is_no_message_is_ignored_since_the_events_are_all_there(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log, snapshot_every=2) as executor:
        await done(executor, register(), dock())
    gated_log.damage_snapshot(ship())
    async with running(gated_log) as executor:
        departed = await ask(executor, depart("aurora")).receipt()
    assert departed.version == 3


async def test_a_damaged_event_under_a_receipt_is_told_and_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    async with running(log) as executor:
        await done(executor, command(register(), 1), dock(), depart())
    await log.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE chunks SET records = x'0a020aff' WHERE first = 1")
    log = await SqliteLog.open(path)
    async with running(log) as executor:
        for _ in range(2):
            error = await ask(executor, command(register(), 1)).error()
            assert isinstance(error, DataLoss)
            assert error.reason == "LOG_CORRUPT"
        assert (await ask(executor, create()).receipt()).version == 1
    await log.close()


# The rules


async def test_an_unexpected_error_is_told_to_the_operator_and_nothing_of_it_to_the_caller(
    log: EventLog, logged: list[MutableMapping[str, Any]]
) -> None:
    async with running(log) as executor:
        error = await ask(executor, command(dock(port=BERMUDA), types=SURPRISING)).error()
    assert isinstance(error, Internal)
    assert "lost at sea" not in str(error)
    assert error.metadata == {}
    assert [(entry["event"], entry["log_level"], entry["command"]) for entry in logged] == [
        ("command_failed", "error", "tidemark.v1.DockShip")
    ]


@pytest.mark.parametrize("port", [BERMUDA, LIMBO, REEF])
async def test_an_unexpected_error_fails_one_command_and_the_executor_goes_on(
    log: EventLog, port: str
) -> None:
    async with running(log) as executor:
        await done(executor, command(register(), types=SURPRISING), create())
        asked = [
            ask(executor, command(each, types=SURPRISING))
            for each in (load("aurora"), dock(port=port), depart("aurora"), change("ada"), dock())
        ]
        answers = [await each.answer() for each in asked]
        assert [getattr(answer, "reason", "taken") for answer in answers] == [
            "SHIP_NOT_DOCKED",
            "INTERNAL",
            "SHIP_NOT_DOCKED",
            "taken",
            "taken",
        ]
        # No trace of what was begun.
        assert (await ask(executor, depart("aurora")).receipt()).version == 3
    assert (await payloads_of(log, ship()))[1:] == [
        ShipDocked(port="Oslo"),
        ShipDeparted(departed_from="Oslo"),
    ]


async def test_what_an_unexpected_error_left_half_done_is_not_seen_by_the_next_command(
    log: EventLog,
) -> None:
    async with running(log) as executor:
        await done(executor, command(register(), types=SURPRISING))
        surprise = ask(executor, command(dock(port=REEF), types=SURPRISING))
        assert await surprise.reason() == "INTERNAL"
        preview = ask(executor, command(depart(), validate_only=True))
        assert await preview.reason() == "SHIP_NOT_DOCKED"
        assert await ask(executor, depart()).reason() == "SHIP_NOT_DOCKED"


async def test_an_unexpected_error_leaves_the_command_id_free(log: EventLog) -> None:
    async with running(log) as executor:
        await done(executor, command(register(), types=SURPRISING))
        surprise = command(dock(port=REEF), 1, types=SURPRISING)
        assert await ask(executor, surprise).reason() == "INTERNAL"
        receipt = await ask(executor, command(dock(), 1)).receipt()
        assert (receipt.version, receipt.duplicate) == (2, False)


async def test_an_unexpected_error_takes_no_command_along_that_was_decided_before(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        await done(executor, register())
        gated_log.appending.hold(1)
        in_flight = ask(executor, dock())
        append = await gated_log.appending.arrival()
        decided = ask(executor, load())
        await turns()
        surprise = ask(executor, command(dock(port=BERMUDA), types=SURPRISING))
        await turns()
        append.let_go()

        assert (await in_flight.receipt()).version == 2
        assert (await decided.receipt()).version == 3
        assert await surprise.reason() == "INTERNAL"


async def test_after_an_unexpected_error_no_answer_lacks_what_was_in_flight(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        await done(executor, register())
        gated_log.appending.hold(1)
        docking = ask(executor, dock())
        append = await gated_log.appending.arrival()
        surprise = ask(executor, command(dock(port=BERMUDA), types=SURPRISING))
        assert await surprise.reason() == "INTERNAL"
        # Has the ship read again, while its docking is still on its way.
        preview = ask(executor, command(dock(), validate_only=True))
        await turns()
        append.let_go()
        assert (await docking.receipt()).version == 2
        await preview.answer()

        assert (await ask(executor, load()).receipt()).version == 3
        assert (await ask(executor, command(depart(), expected_version=3)).receipt()).version == 4
