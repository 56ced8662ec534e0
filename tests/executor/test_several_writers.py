"""Two command services, as two executors, on one log."""

import asyncio

import pytest

from command_service.command import Command
from command_service.executor import MAX_ATTEMPTS
from shared.errors import Conflict, TidemarkError
from shared.log.memory import MemoryLog
from tests.executor.asking import ask, done, running
from tests.executor.commands import (
    change,
    command,
    create,
    depart,
    dock,
    load,
    register,
)
from tests.executor.logs import ContestedLog, GatedLog
from tests.executor.recorded import payloads_of
from tests.log.builders import ship, user
from tests.log.reading import events_of
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.ship_pb2 import ShipDocked
from tidemark.v1.user_pb2 import UserBalanceChanged


async def test_who_loses_reads_again_and_decides_again(shared_log: GatedLog) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        await done(one, register())
        await done(other, dock(port="Bergen"))

        assert (await ask(one, dock(port="Oslo")).receipt()).version == 3
        assert shared_log.loads == [{ship()}, {ship()}, {ship()}]
    assert (await payloads_of(shared_log, ship()))[1:] == [
        ShipDocked(port="Bergen"),
        ShipDocked(port="Oslo"),
    ]


async def test_who_loses_is_judged_by_what_the_winner_did(shared_log: GatedLog) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        await done(one, create(balance=10))
        await done(other, change(by=-7))

        error = await ask(one, change(by=-7)).error()
        assert (error.reason, error.metadata["balance"]) == ("INSUFFICIENT_BALANCE", "3")
    assert shared_log.head.position == 2


async def test_all_that_was_decided_on_top_of_the_loser_is_decided_again_in_order(
    shared_log: GatedLog,
) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        await done(one, register())
        await done(other, dock(port="Bergen"))
        asked = [ask(one, each) for each in (dock(port="Oslo"), load(), depart())]
        assert [(await each.receipt()).version for each in asked] == [3, 4, 5]


async def test_who_loses_with_an_expected_version_is_told_the_actual_one(
    shared_log: GatedLog,
) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        await done(one, register())
        await done(other, dock())

        error = await ask(one, command(dock(port="Hull"), expected_version=1)).error()
        assert isinstance(error, Conflict)
        assert error.reason == "WRONG_VERSION"
        assert error.metadata["actual_version"] == "2"
        assert error.metadata["expected_version"] == "1"
    assert shared_log.head.position == 2


@pytest.mark.parametrize("validate_only", [False, True])
async def test_who_always_loses_gives_up(validate_only: bool) -> None:
    log = ContestedLog()
    async with running(log) as executor:
        await done(executor, register())
        log.contest(MAX_ATTEMPTS)
        error = await ask(executor, command(dock(), validate_only=validate_only)).error()
        assert isinstance(error, Conflict)
        assert error.reason == "WRONG_VERSION"
        assert int(error.metadata["actual_version"]) == 1 + MAX_ATTEMPTS
        assert log.appends == 1 + MAX_ATTEMPTS
    assert log.head.position == 1 + MAX_ATTEMPTS


async def test_who_wins_at_the_last_attempt_has_won() -> None:
    log = ContestedLog()
    async with running(log) as executor:
        await done(executor, register())
        log.contest(MAX_ATTEMPTS - 1)
        assert (await ask(executor, dock()).receipt()).version == MAX_ATTEMPTS + 1


# A cache that is old without any append having failed


async def test_a_refusal_from_an_old_cache_becomes_a_success(shared_log: GatedLog) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        await done(one, register())
        await done(other, dock())
        assert (await ask(one, depart()).receipt()).version == 3


async def test_a_success_from_an_old_cache_becomes_a_refusal(shared_log: GatedLog) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        await done(one, register(), dock())
        await done(other, depart())
        assert await ask(one, depart()).reason() == "SHIP_NOT_DOCKED"
    assert shared_log.head.position == 3


async def test_a_wrong_version_from_an_old_cache_becomes_a_success(shared_log: GatedLog) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        await done(one, register())
        await done(other, dock())
        receipt = await ask(one, command(depart(), expected_version=2)).receipt()
        assert receipt.version == 3


async def test_a_wrong_version_from_an_old_cache_names_the_version_in_the_log(
    shared_log: GatedLog,
) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        await done(one, register())
        await done(other, dock(), dock())
        error = await ask(one, command(depart(), expected_version=2)).error()
        assert (error.reason, error.metadata["actual_version"]) == ("WRONG_VERSION", "3")


async def test_a_preview_from_an_old_cache_is_decided_again(shared_log: GatedLog) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        await done(one, register(), dock())
        await done(other, depart())
        preview = ask(one, command(depart(), validate_only=True))
        assert await preview.reason() == "SHIP_NOT_DOCKED"

        await done(other, dock(port="Bergen"))
        receipt = await ask(one, command(depart(), validate_only=True)).receipt()
        [event] = receipt.events
        assert (event.version, receipt.version) == (5, 5)
    assert shared_log.head.position == 4


async def test_that_something_does_not_exist_is_confirmed_too(shared_log: GatedLog) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        assert await ask(one, dock()).reason() == "SHIP_NOT_FOUND"
        await done(other, register())
        assert (await ask(one, dock()).receipt()).version == 2


# One command_id on both


async def test_one_command_id_sent_to_both_at_once_has_one_effect_and_one_receipt() -> None:
    log = MemoryLog()
    async with running(log) as one, running(log) as other:
        await done(one, create(balance=10))
        await done(other, change(by=-1))
        asked = [ask(executor, command(change(by=-2), 1)) for executor in (one, other)]
        receipts = [await each.receipt() for each in asked]

        assert sorted(receipt.duplicate for receipt in receipts) == [False, True]
        for receipt in receipts:
            receipt.duplicate = False
        assert receipts[0] == receipts[1]
    assert (await payloads_of(log, user()))[2:] == [UserBalanceChanged(balance_change=-2)]


async def test_a_creation_sent_to_both_at_once_creates_once() -> None:
    log = MemoryLog()
    async with running(log) as one, running(log) as other:
        asked = [ask(executor, command(create(""), 1)) for executor in (one, other) * 5]
        receipts = [await each.receipt() for each in asked]
        assert len({(receipt.aggregate_id, receipt.position) for receipt in receipts}) == 1
        assert [receipt.duplicate for receipt in receipts].count(False) == 1
    assert log.head.position == 1


async def test_a_command_that_the_other_has_executed_is_a_repetition(
    shared_log: GatedLog,
) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        await done(one, register())
        [receipt] = await done(other, command(dock(), 1))
        repeated = await ask(one, command(dock(), 1)).receipt()
        assert repeated.duplicate
        assert (repeated.version, repeated.position) == (receipt.version, receipt.position)
    assert shared_log.head.position == 2


async def test_a_command_that_the_other_executes_after_the_receipts_were_read_is_a_repetition(
    shared_log: GatedLog,
) -> None:
    """Between reading receipts and loading, the other one executes it: it is not to be refused."""
    async with running(shared_log) as one, running(shared_log) as other:
        shared_log.loading.hold(1)
        retry = ask(one, command(register(), 1))
        loading = await shared_log.loading.arrival()
        [receipt] = await done(other, command(register(), 1))
        loading.let_go()

        repeated = await retry.receipt()
        assert (repeated.version, repeated.position) == (receipt.version, receipt.position)
        assert repeated.duplicate


async def test_after_a_repetition_nothing_is_answered_from_its_effect_counted_twice(
    shared_log: GatedLog,
) -> None:
    async with running(shared_log) as one, running(shared_log) as other:
        await done(other, create(balance=10))
        shared_log.loading.hold(1)
        retry = ask(one, command(change(by=-5), 1))
        loading = await shared_log.loading.arrival()
        await done(other, command(change(by=-5), 1))
        loading.let_go()
        assert (await retry.receipt()).duplicate

        # The log comes to the version at which one writer had been with the effect counted twice.
        await done(other, change(by=1))
        assert (await ask(one, change(by=-6)).receipt()).version == 4


async def test_another_command_under_the_id_of_the_other_one_is_told_so() -> None:
    log = MemoryLog()
    async with running(log) as one, running(log) as other:
        await done(one, create(balance=10))
        asked = [
            ask(executor, command(change(by=by), 1)) for executor, by in ((one, -2), (other, -3))
        ]
        answers = [await each.answer() for each in asked]
        assert sorted(getattr(answer, "reason", "") for answer in answers) == [
            "",
            "COMMAND_ID_REUSED",
        ]
    assert log.head.position == 2


# Both at work on one aggregate


async def test_two_writers_never_spend_more_than_there_is() -> None:
    log = MemoryLog()

    async def spend(asked: Command, index: int) -> CommandReceipt | TidemarkError:
        return await ask((one, other)[index % 2], asked).answer()

    async with running(log) as one, running(log) as other:
        await done(one, create(balance=10))
        answers = await asyncio.gather(
            *(spend(command(change(by=-1), number), number) for number in range(1, 41))
        )

    spent = [answer for answer in answers if isinstance(answer, CommandReceipt)]
    reasons = {answer.reason for answer in answers if isinstance(answer, TidemarkError)}
    assert reasons <= {"INSUFFICIENT_BALANCE", "WRONG_VERSION"}
    assert "INSUFFICIENT_BALANCE" in reasons
    assert len(spent) == 10
    assert {receipt.position for receipt in spent} == {
        event.position for event in (await events_of(log))[1:]
    }
    assert len(await payloads_of(log, user())) == 11
