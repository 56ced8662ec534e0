from collections.abc import Callable
from pathlib import Path

import pytest

from command_service.executor import MAX_DECIDED, Executor
from shared.errors import Exhausted, TidemarkError, Unavailable
from shared.log.log import OutcomeUnknown
from shared.log.sqlite import SqliteLog
from tests.executor.asking import KEYS, ask, done, running, turns, within
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
from tests.executor.logs import GatedLog, limit_size
from tests.executor.recorded import payloads_of
from tests.log.builders import ship, user
from tests.log.reading import events_of
from tidemark.v1.ship_pb2 import CargoLoaded, ShipDocked, ShipRegistered

failing = pytest.mark.parametrize(
    "make_error",
    [
        lambda: Exhausted("DISK_FULL", "The disk is full"),
        lambda: Unavailable("LOG_UNAVAILABLE", "The database does not answer"),
    ],
    ids=["disk full", "unavailable"],
)
MakeError = Callable[[], TidemarkError]


@failing
async def test_every_command_of_a_group_that_fails_gets_the_error_and_nothing_is_written(
    gated_log: GatedLog, make_error: MakeError
) -> None:
    async with running(gated_log) as executor:
        error = make_error()
        gated_log.appending.fail_next(error)
        asked = [ask(executor, register(name)) for name in ("aurora", "borealis")]
        answers = [await each.error() for each in asked]
        assert [(type(each), each.reason) for each in answers] == [(type(error), error.reason)] * 2
        assert gated_log.head.position == 0


@failing
async def test_an_aggregate_whose_commit_failed_is_read_again_and_goes_on_without_a_gap(
    gated_log: GatedLog, make_error: MakeError
) -> None:
    async with running(gated_log) as executor:
        await done(executor, register(), create())
        gated_log.appending.fail_next(make_error())
        assert await ask(executor, dock()).reason() == make_error().reason
        assert gated_log.loads == [{ship()}, gated_log.loads[1]]

        assert await ask(executor, load()).reason() == "SHIP_NOT_DOCKED"
        assert gated_log.loads[2:] == [{ship()}]
        assert (await ask(executor, dock()).receipt()).version == 2
        assert (await ask(executor, change()).receipt()).version == 2
        assert len(gated_log.loads) == 3


async def test_many_commands_decided_on_top_of_a_commit_that_fails_are_decided_again(
    gated_log: GatedLog,
) -> None:
    """So many that no more were decided before some of them are committed."""
    async with running(gated_log) as executor:
        await done(executor, register())
        gated_log.appending.hold(1)
        failing = ask(executor, dock())
        append = await gated_log.appending.arrival()
        on_top = [ask(executor, load()) for _ in range(2 * MAX_DECIDED)]
        await turns()
        append.fail(Exhausted("DISK_FULL", "The disk is full"))

        assert await failing.reason() == "DISK_FULL"
        assert {await each.reason() for each in on_top} == {"SHIP_NOT_DOCKED"}


@failing
async def test_commands_decided_on_top_of_a_commit_that_fails_are_decided_again(
    gated_log: GatedLog, make_error: MakeError
) -> None:
    async with running(gated_log) as executor:
        await done(executor, register(), dock(), load(quantity=5))
        gated_log.appending.hold(1)
        departing = ask(executor, depart())
        append = await gated_log.appending.arrival()
        docking = ask(executor, dock(port="Bergen"))
        unloading = ask(executor, unload(quantity=2))
        elsewhere = ask(executor, create())
        await turns()
        append.fail(make_error())

        assert await departing.reason() == make_error().reason
        assert (await docking.receipt()).version == 4
        assert (await unloading.receipt()).version == 5
        assert (await elsewhere.receipt()).version == 1
        # Not as they were: what they rested on is not there.
        appended = [commit for commits in gated_log.appends[4:] for commit in commits]
        assert [(commit.key, commit.expected_version) for commit in appended] == [
            (user(), 0),
            (ship(), 3),
            (ship(), 4),
        ]
    *_, docked, unloaded = await payloads_of(gated_log, ship())
    assert docked == ShipDocked(port="Bergen")
    assert (unloaded.DESCRIPTOR.name, getattr(unloaded, "port", "")) == ("CargoUnloaded", "Bergen")


@failing
async def test_a_command_that_makes_no_sense_without_the_failed_one_is_refused(
    gated_log: GatedLog, make_error: MakeError
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(1)
        registering = ask(executor, register())
        append = await gated_log.appending.arrival()
        docking = ask(executor, dock())
        await turns()
        append.fail(make_error())

        assert await registering.reason() == make_error().reason
        assert await docking.reason() == "SHIP_NOT_FOUND"
        assert gated_log.head.position == 0


async def test_failures_one_after_another_are_outlived(gated_log: GatedLog) -> None:
    async with running(gated_log) as executor:
        await done(executor, register())
        for _ in range(30):
            gated_log.appending.fail_next(Unavailable("LOG_UNAVAILABLE", "Not now"))
        asked = [ask(executor, dock(port=f"port {number}")) for number in range(5)]
        assert {await each.reason() for each in asked} == {"LOG_UNAVAILABLE"}
        for _ in range(29):
            assert await ask(executor, dock()).reason() == "LOG_UNAVAILABLE"
        assert (await ask(executor, dock()).receipt()).version == 2


async def test_commands_work_again_when_a_disk_that_was_full_has_room(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    try:
        async with running(log) as executor:
            await done(executor, register(), dock())
            await limit_size(log, 1)
            commands = [command(load(item=f"{number} {'x' * 200}")) for number in range(200)]
            answers = await within(executor.submit(commands))
            assert [getattr(answer, "reason", answer) for answer in answers] == ["DISK_FULL"] * 200

            await limit_size(log, 1_000_000)
            assert (await ask(executor, load()).receipt()).version == 3
        assert await payloads_of(log, ship()) == [
            ShipRegistered(name="Aurora"),
            ShipDocked(port="Oslo"),
            CargoLoaded(item="tea", quantity=1, port="Oslo"),
        ]
    finally:
        await log.close()


# Reads that fail


async def test_when_receipts_cannot_be_read_only_commands_with_an_id_fail(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.looking_up.fail_next(Unavailable("LOG_UNAVAILABLE", "Not now"))
        with_id = ask(executor, command(register("aurora"), 1))
        without_id = ask(executor, register("borealis"))
        assert await with_id.reason() == "LOG_UNAVAILABLE"
        assert (await without_id.receipt()).version == 1
        assert (await ask(executor, command(register("aurora"), 1)).receipt()).version == 1


async def test_when_aggregates_cannot_be_read_those_in_memory_go_on(gated_log: GatedLog) -> None:
    async with running(gated_log) as executor:
        await done(executor, register("warm"))
        gated_log.loading.fail_next(Unavailable("LOG_UNAVAILABLE", "Not now"))
        cold = ask(executor, register("cold"))
        warm = ask(executor, dock("warm"))
        assert await cold.reason() == "LOG_UNAVAILABLE"
        assert (await warm.receipt()).version == 2
        assert (await ask(executor, register("cold")).receipt()).version == 1


# A commit of which nobody knows whether it failed


@pytest.mark.parametrize("was_written", [False, True], ids=["not written", "written"])
async def test_an_unknown_outcome_ends_the_executor_and_a_retry_finds_out(
    gated_log: GatedLog, was_written: bool
) -> None:
    executor = Executor(gated_log, KEYS)
    asked = ask(executor, command(register(), 1))
    on_top = ask(executor, dock())
    unknown = OutcomeUnknown("COMMIT failed")
    if was_written:
        gated_log.after_writing = unknown
    else:
        gated_log.appending.fail_next(unknown)

    with pytest.RaisesGroup(OutcomeUnknown):
        await within(executor.run())

    assert not asked.is_answered
    assert not on_top.is_answered
    gated_log.after_writing = None
    async with running(gated_log) as after_restart:
        receipt = await ask(after_restart, command(register(), 1)).receipt()
        assert (receipt.version, receipt.duplicate) == (1, was_written)
    [event] = [each for each in await events_of(gated_log) if each.version == 1]
    assert event.position == receipt.position
