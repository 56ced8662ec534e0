import asyncio

import pytest

from command_service.calls import CommandStream
from shared.errors import Exhausted, TidemarkError, Unavailable
from shared.log.log import EventLog
from tests.executor.asking import Asked, ask, done, running, turns, within
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
from tests.executor.recorded import payloads_of
from tests.executor.surprises import BERMUDA, SURPRISING
from tests.log.builders import ship, user
from tidemark.v1.ship_pb2 import (
    CargoLoaded,
    ShipDeparted,
    ShipDocked,
    ShipRegistered,
)

DISK_FULL = Exhausted("DISK_FULL", "The disk is full")

REGISTERED = ShipRegistered(name="Aurora")
DOCKED = ShipDocked(port="Oslo")
LOADED = CargoLoaded(item="tea", quantity=1, port="Oslo")
DEPARTED = ShipDeparted(departed_from="Oslo")


# Order


async def test_commands_for_one_aggregate_take_effect_in_the_order_of_submission(
    log: EventLog,
) -> None:
    stream = CommandStream()
    async with running(log) as executor:
        await done(executor, register(), dock())
        requests = []
        for number in range(10):
            commands = [command(each) for each in (load(), unload()) * 50]
            if number % 2:
                commands[1:1] = [command(register(f"ship {number}"))]
            requests.append(executor.submit(commands, stream))
            await asyncio.sleep(0)
        answers = [answer for request in requests for answer in await within(request)]
        versions = [
            getattr(answer, "version", 0)
            for answer in answers
            if getattr(answer, "aggregate_id", "aurora") == "aurora"
        ]
        assert versions == list(range(3, 1003))


async def test_verdicts_do_not_end_a_stream(gated_log: GatedLog) -> None:
    stream = CommandStream()
    async with running(gated_log) as executor:
        commands = (register(), register(), depart(), dock(), load("ghost"), depart())
        answers = await within(executor.submit([command(each) for each in commands], stream))
        assert [getattr(answer, "reason", "taken") for answer in answers] == [
            "taken",
            "SHIP_ALREADY_REGISTERED",
            "SHIP_NOT_DOCKED",
            "taken",
            "SHIP_NOT_FOUND",
            "taken",
        ]
        assert stream.failure is None
        assert await ask(executor, command(dock(), expected_version=9), stream).reason() == (
            "WRONG_VERSION"
        )
        assert (await ask(executor, dock(), stream).receipt()).version == 4


# After a failure


async def test_after_a_failed_commit_no_later_command_of_the_stream_takes_effect(
    gated_log: GatedLog,
) -> None:
    stream = CommandStream()
    async with running(gated_log) as executor:
        await done(executor, register(), dock())
        gated_log.appending.hold(1)
        failing = ask(executor, load(), stream)
        append = await gated_log.appending.arrival()
        on_top = [ask(executor, each, stream) for each in (load(), depart(), dock("ghost"))]
        await turns()
        append.fail(DISK_FULL)

        assert await failing.reason() == "DISK_FULL"
        assert [await each.reason() for each in on_top[:2]] == ["DISK_FULL", "DISK_FULL"]
        assert isinstance(await on_top[2].answer(), TidemarkError)
        later = ask(executor, depart(), stream)
        assert await later.reason() == "DISK_FULL"
        elsewhere = ask(executor, create(), stream)
        assert await elsewhere.reason() == "DISK_FULL"
        assert stream.failure is await failing.error()
    assert await payloads_of(gated_log, ship()) == [REGISTERED, DOCKED]


async def test_after_a_failed_read_no_later_command_of_the_stream_takes_effect(
    gated_log: GatedLog,
) -> None:
    stream = CommandStream()
    async with running(gated_log) as executor:
        gated_log.loading.fail_next(Unavailable("LOG_UNAVAILABLE", "Not now"))
        answers = await within(
            executor.submit([command(each) for each in (register(), dock(), create())], stream)
        )
        assert [getattr(answer, "reason", "taken") for answer in answers] == ["LOG_UNAVAILABLE"] * 3
    assert gated_log.head.position == 0


async def test_a_request_that_fails_in_the_middle_is_answered_as_a_whole(
    gated_log: GatedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("command_service.executor.MAX_GROUP_EVENTS", 2)
    stream = CommandStream()
    async with running(gated_log) as executor:
        await done(executor, create())
        gated_log.appending.hold(2)
        request = executor.submit([command(change(by=number)) for number in range(1, 7)], stream)
        (await gated_log.appending.arrival()).let_go()
        (await gated_log.appending.arrival()).fail(DISK_FULL)
        answers = await within(request)
        assert [getattr(answer, "reason", "taken") for answer in answers] == [
            "taken",
            "taken",
            *["DISK_FULL"] * 4,
        ]
    assert len(await payloads_of(gated_log, user())) == 3


async def test_the_failure_of_a_stream_is_no_other_caller_s(gated_log: GatedLog) -> None:
    stream, other_stream = CommandStream(), CommandStream()
    async with running(gated_log) as executor:
        await done(executor, register(), create())
        gated_log.appending.hold(1)
        failing = ask(executor, dock(), stream)
        append = await gated_log.appending.arrival()
        given_up = ask(executor, dock(port="Given up"), stream)
        single = ask(executor, dock(port="Bergen"))
        others = ask(executor, load(), other_stream)
        await turns()
        append.fail(DISK_FULL)

        assert await failing.reason() == await given_up.reason() == "DISK_FULL"
        assert (await single.receipt()).version == 2
        assert (await others.receipt()).version == 3
        assert other_stream.failure is None


async def test_a_stream_that_is_given_up_keeps_what_was_decided(gated_log: GatedLog) -> None:
    stream = CommandStream()
    gone = Unavailable("CALLER_GONE", "Nobody waits for the answer")
    async with running(gated_log) as executor:
        gated_log.appending.hold(1)
        decided = ask(executor, register(), stream)
        append = await gated_log.appending.arrival()
        undecided = ask(executor, dock(), stream)
        stream.fail(gone)
        stream.fail(DISK_FULL)
        append.let_go()

        assert (await decided.receipt()).version == 1
        assert await undecided.error() is gone
    assert await payloads_of(gated_log, ship()) == [REGISTERED]


# Order, though the state was lost in between
#
# The ship's state is lost while commands decided on it are still in line. Whatever comes later for
# the ship must not be decided before they are decided again.


async def loaded_then_departed(first: Asked, second: Asked, log: EventLog) -> None:
    """The two have taken effect in the order in which they were submitted."""
    answers = [await first.answer(), await second.answer()]
    assert [getattr(answer, "version", answer) for answer in answers] == [3, 4]
    assert await payloads_of(log, ship()) == [REGISTERED, DOCKED, LOADED, DEPARTED]


async def test_the_order_survives_a_failed_commit_with_more_than_a_group_in_line(
    gated_log: GatedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("command_service.executor.MAX_GROUP_EVENTS", 2)
    stream = CommandStream()
    async with running(gated_log) as executor:
        await done(executor, register(), dock())
        gated_log.appending.hold(2)
        failing = ask(executor, dock(port="Nowhere"))
        append = await gated_log.appending.arrival()
        for number in range(2):
            ask(executor, create(f"user {number}"))
        await turns()
        loading = ask(executor, load(), stream)
        await turns()
        append.fail(DISK_FULL)
        assert await failing.reason() == "DISK_FULL"
        append = await gated_log.appending.arrival()
        departing = ask(executor, depart(), stream)
        await turns()
        append.let_go()

        await loaded_then_departed(loading, departing, gated_log)


async def test_the_order_survives_an_unexpected_error_of_another_command(
    gated_log: GatedLog,
) -> None:
    stream = CommandStream()
    async with running(gated_log) as executor:
        await done(executor, register(), dock())
        gated_log.appending.hold(1)
        ask(executor, create())
        append = await gated_log.appending.arrival()
        loading = ask(executor, load(), stream)
        await turns()
        surprise = ask(executor, command(dock(port=BERMUDA), types=SURPRISING))
        assert await surprise.reason() == "INTERNAL"
        departing = ask(executor, depart(), stream)
        await turns()
        append.let_go()

        await loaded_then_departed(loading, departing, gated_log)


async def test_the_order_survives_when_the_first_one_repeats_a_command_that_is_given_up(
    gated_log: GatedLog,
) -> None:
    """A client whose call broke sends the command again, and the next one after it."""
    stream = CommandStream()
    async with running(gated_log) as executor:
        await done(executor, register(), dock())
        gated_log.appending.hold(2)
        failing = ask(executor, dock(port="Nowhere"))
        append = await gated_log.appending.arrival()
        broken_off = ask(executor, command(load(), 1))
        await turns()
        broken_off.hang_up()
        loading = ask(executor, command(load(), 1), stream)
        departing = ask(executor, depart(), stream)
        ask(executor, create())
        await turns()
        append.fail(DISK_FULL)
        assert await failing.reason() == "DISK_FULL"
        append = await gated_log.appending.arrival()
        await turns()
        append.let_go()

        await loaded_then_departed(loading, departing, gated_log)


async def test_the_order_survives_when_the_first_one_has_the_id_of_another_that_fails(
    gated_log: GatedLog,
) -> None:
    stream = CommandStream()
    async with running(gated_log) as executor:
        await done(executor, register(), dock())
        gated_log.appending.hold(1)
        failing = ask(executor, command(create(), 1))
        append = await gated_log.appending.arrival()
        loading = ask(executor, command(load(), 1), stream)
        departing = ask(executor, depart(), stream)
        await turns()
        append.fail(DISK_FULL)
        assert await failing.reason() == "DISK_FULL"

        await loaded_then_departed(loading, departing, gated_log)


async def test_the_order_survives_when_a_command_waits_behind_one_with_another_s_id(
    gated_log: GatedLog,
) -> None:
    """Of those that wait, none is decided after one that came later, whenever that came."""
    stream = CommandStream()
    async with running(gated_log) as executor:
        await done(executor, register(), dock())
        gated_log.appending.hold(3)
        ask(executor, command(create("leader"), 1))
        append = await gated_log.appending.arrival()
        reusing = ask(executor, command(dock(port="Nowhere"), 1), stream)
        ask(executor, create("in the second append"))
        await turns()
        append.let_go()
        append = await gated_log.appending.arrival()
        loading = ask(executor, load(), stream)
        ask(executor, create("in the third append"))
        await turns()
        append.let_go()
        assert await reusing.reason() == "COMMAND_ID_REUSED"
        append = await gated_log.appending.arrival()
        departing = ask(executor, depart(), stream)
        await turns()
        append.let_go()

        await loaded_then_departed(loading, departing, gated_log)
