import asyncio

import pytest

from shared.errors import Exhausted
from shared.log.log import EventLog, OutcomeUnknown
from tests.executor.asking import ask, done, running, turns, within
from tests.executor.commands import TENANT, change, command, create, depart, dock, load, register
from tests.executor.logs import GatedLog
from tests.executor.recorded import payloads_of
from tests.log.builders import ship, user
from tidemark.v1.ship_pb2 import ShipRegistered

# Commands in flight


async def test_past_the_limit_a_command_is_turned_away_at_once(exclusive_log: GatedLog) -> None:
    async with running(exclusive_log, max_in_flight=2) as executor:
        exclusive_log.appending.hold(1)
        accepted = [
            asyncio.create_task(executor.execute(command(each))) for each in (register(), dock())
        ]
        append = await exclusive_log.appending.arrival()

        with pytest.raises(Exhausted) as turned_away:
            await within(executor.execute(command(create())))
        assert turned_away.value.reason == "TOO_MANY_COMMANDS"
        assert turned_away.value.metadata == {"limit": "2"}
        assert not any(each.done() for each in accepted)

        append.let_go()
        assert [(await within(each)).version for each in accepted] == [1, 2]
        assert (await within(executor.execute(command(create())))).version == 1
    assert exclusive_log.head.position == 3


async def test_what_is_refused_fails_or_is_given_up_makes_room_again(gated_log: GatedLog) -> None:
    async with running(gated_log, max_in_flight=1) as executor:
        with pytest.raises(Exception, match="SHIP_NOT_FOUND"):
            await within(executor.execute(command(dock())))
        gated_log.appending.fail_next(Exhausted("DISK_FULL", "The disk is full"))
        with pytest.raises(Exhausted, match="DISK_FULL"):
            await within(executor.execute(command(register(), 1)))
        await within(executor.execute(command(register(), 1)))
        assert (await within(executor.execute(command(register(), 1)))).duplicate
        caller = asyncio.create_task(executor.execute(command(dock())))
        asyncio.get_running_loop().call_soon(caller.cancel)
        with pytest.raises(asyncio.CancelledError):
            await caller
        await within(executor.drain())
        assert (await within(executor.execute(command(create())))).version == 1


async def test_a_stream_is_let_in_while_half_is_free(exclusive_log: GatedLog) -> None:
    async with running(exclusive_log, max_in_flight=4) as executor:
        exclusive_log.appending.hold(2)
        ask(executor, register("one"))
        await within(executor.room(TENANT, 1))
        append = await exclusive_log.appending.arrival()
        ask(executor, register("two"))

        room = asyncio.create_task(executor.room(TENANT, 1))
        await turns()
        assert not room.done()

        append.let_go()
        await within(room)
        (await exclusive_log.appending.arrival()).let_go()


async def test_everyone_who_waits_for_room_is_told(exclusive_log: GatedLog) -> None:
    async with running(exclusive_log, max_in_flight=2) as executor:
        exclusive_log.appending.hold(1)
        ask(executor, register())
        append = await exclusive_log.appending.arrival()
        waiting = [asyncio.create_task(executor.room(TENANT, 1)) for _ in range(3)]
        await turns()
        assert not any(each.done() for each in waiting)

        append.let_go()
        await within(asyncio.gather(*waiting))


# Aggregates in memory


async def test_the_least_recently_used_aggregate_leaves_the_cache(gated_log: GatedLog) -> None:
    async with running(gated_log, max_cached=2) as executor:
        await done(executor, create("ada"), create("bob"), change("ada"), create("cleo"))
        gated_log.loads.clear()

        await done(executor, change("ada"), change("cleo"))
        assert gated_log.loads == []
        assert (await ask(executor, change("bob")).receipt()).version == 2
        assert gated_log.loads == [{user("bob")}]
        assert (await ask(executor, change("ada")).receipt()).version == 4
        assert gated_log.loads == [{user("bob")}, {user("ada")}]


async def test_more_aggregates_in_one_batch_than_the_cache_holds_are_served(
    log: EventLog,
) -> None:
    async with running(log, max_cached=3) as executor:
        for expected in (1, 2, 3):
            make = create if expected == 1 else change
            asked = [ask(executor, make(f"user {number}")) for number in range(20)]
            assert [(await each.receipt()).version for each in asked] == [expected] * 20


async def test_an_aggregate_with_events_on_their_way_stays_in_the_cache(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log, max_cached=1) as executor:
        gated_log.appending.hold(1)
        registering = ask(executor, register("aurora"))
        append = await gated_log.appending.arrival()
        others = [ask(executor, register(f"ship {number}")) for number in range(5)]
        await turns()
        docking = ask(executor, dock("aurora"))
        await turns()
        append.let_go()

        assert (await registering.receipt()).version == 1
        assert (await docking.receipt()).version == 2
        assert [(await other.receipt()).version for other in others] == [1] * 5
        assert [ship("aurora") in loaded for loaded in gated_log.loads].count(True) == 1


async def test_the_cache_returns_to_its_bound_when_nothing_is_on_its_way(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log, max_cached=1) as executor:
        for asked in [ask(executor, create(f"user {number}")) for number in range(5)]:
            await asked.receipt()
        await done(executor, create("last"))
        gated_log.loads.clear()
        await done(executor, *(change(f"user {number}") for number in range(5)))
        assert gated_log.loads == [{user(f"user {number}")} for number in range(5)]


# Callers who hang up


async def test_a_command_whose_caller_has_gone_before_it_is_decided_has_no_effect(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.loading.hold(1)
        gone = asyncio.create_task(executor.execute(command(register(name="Gone"))))
        loading = await gated_log.loading.arrival()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        loading.let_go()

        assert (await ask(executor, register(name="Stays")).receipt()).version == 1
    assert await payloads_of(gated_log, ship()) == [ShipRegistered(name="Stays")]


async def test_a_command_whose_caller_goes_after_it_is_decided_takes_effect(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(2)
        being_appended = asyncio.create_task(executor.execute(command(register(), 1)))
        append = await gated_log.appending.arrival()
        decided = asyncio.create_task(executor.execute(command(dock(), 2)))
        await turns()
        for caller in (being_appended, decided):
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
        append.let_go()
        (await gated_log.appending.arrival()).let_go()

        retries = [ask(executor, command(register(), 1)), ask(executor, command(dock(), 2))]
        receipts = [await retry.receipt() for retry in retries]
        assert [(receipt.version, receipt.duplicate) for receipt in receipts] == [
            (1, True),
            (2, True),
        ]
    assert gated_log.head.position == 2


async def test_a_caller_that_goes_takes_no_other_command_of_the_group_along(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(1)
        gone, stays = ask(executor, register("gone")), ask(executor, register("stays"))
        append = await gated_log.appending.arrival()
        gone.hang_up()
        append.let_go()
        assert (await stays.receipt()).version == 1
    assert gated_log.head.position == 2


async def test_a_command_to_be_decided_again_has_no_effect_if_its_caller_has_gone(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        await done(executor, register())
        gated_log.appending.hold(1)
        failing = ask(executor, dock(port="Oslo"))
        append = await gated_log.appending.arrival()
        gone = ask(executor, dock(port="Bergen"))
        await turns()
        gone.hang_up()
        append.fail(Exhausted("DISK_FULL", "The disk is full"))
        assert await failing.reason() == "DISK_FULL"
        assert await ask(executor, depart()).reason() == "SHIP_NOT_DOCKED"
    assert gated_log.head.position == 1


# Draining


async def test_draining_returns_at_once_when_nothing_is_in_flight(log: EventLog) -> None:
    async with running(log) as executor:
        await within(executor.drain())
        await done(executor, register())
        await within(executor.drain())


async def test_draining_returns_when_everything_is_settled(gated_log: GatedLog) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(2)
        asked = [ask(executor, command(register(), 1))]
        append = await gated_log.appending.arrival()
        asked += [ask(executor, command(register(), 1)), ask(executor, register())]
        asked += [ask(executor, dock()), ask(executor, load("ghost"))]
        draining = asyncio.create_task(executor.drain())
        await turns()
        assert not draining.done()

        append.let_go()
        append = await gated_log.appending.arrival()
        await turns()
        assert not draining.done()

        append.let_go()
        await within(draining)
        assert all(each.is_answered for each in asked)
    assert gated_log.head.position == 2


async def test_draining_does_not_wait_for_ever_for_a_log_that_does_not_answer(
    gated_log: GatedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("command_service.executor.DRAIN_S", 0.05)
    async with running(gated_log) as executor:
        gated_log.appending.hold()
        asked = ask(executor, register())
        append = await gated_log.appending.arrival()

        with pytest.raises(OutcomeUnknown, match="1 commands are still in flight"):
            await within(executor.drain())

        append.let_go()
        await within(executor.drain())
    assert asked.is_answered
