"""Two executors, each with a log of its own, on one PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from command_service.executor import Executor
from shared.errors import Conflict, TidemarkError
from shared.log.postgres import PostgresLog
from tests.executor.asking import ask, done, running
from tests.executor.commands import change, command, create, depart, dock, load, register
from tests.executor.recorded import payloads_of
from tests.log.builders import ship, user
from tests.log.reading import events_of
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.ship_pb2 import ShipDocked


@asynccontextmanager
async def running_on(url: str) -> AsyncIterator[tuple[Executor, PostgresLog]]:
    log = await PostgresLog.open(url)
    try:
        async with running(log) as executor:
            yield executor, log
    finally:
        await log.close()


async def test_who_loses_decides_again_by_what_the_winner_did(postgres_url: str) -> None:
    async with running_on(postgres_url) as (one, log), running_on(postgres_url) as (other, _):
        await done(one, register(), create(balance=10))
        await done(other, dock(port="Bergen"), change(by=-7))

        assert (await ask(one, dock(port="Oslo")).receipt()).version == 3
        assert await ask(one, change(by=-7)).reason() == "INSUFFICIENT_BALANCE"
        assert (await payloads_of(log, ship()))[1:] == [
            ShipDocked(port="Bergen"),
            ShipDocked(port="Oslo"),
        ]
        assert len(await payloads_of(log, user())) == 2


async def test_an_answer_from_an_old_cache_is_confirmed_first(postgres_url: str) -> None:
    async with running_on(postgres_url) as (one, _), running_on(postgres_url) as (other, _):
        await done(one, register())
        await done(other, dock())

        assert await ask(one, dock("unknown")).reason() == "SHIP_NOT_FOUND"
        preview = await ask(one, command(depart(), validate_only=True)).receipt()
        assert preview.version == 3
        assert (await ask(one, depart()).receipt()).version == 3
        assert await ask(other, depart()).reason() == "SHIP_NOT_DOCKED"


async def test_who_loses_with_an_expected_version_is_told_the_actual_one(postgres_url: str) -> None:
    async with running_on(postgres_url) as (one, log), running_on(postgres_url) as (other, _):
        await done(one, register())
        await done(other, dock())

        error = await ask(one, command(dock(port="Hull"), expected_version=1)).error()

        assert isinstance(error, Conflict)
        assert error.metadata["actual_version"] == "2"
        assert (await log.newest()).position == 2


async def test_all_that_was_decided_on_top_of_the_loser_is_decided_again_in_order(
    postgres_url: str,
) -> None:
    async with running_on(postgres_url) as (one, _), running_on(postgres_url) as (other, _):
        await done(one, register())
        await done(other, dock(port="Bergen"))

        asked = [ask(one, each) for each in (dock(port="Oslo"), load(), depart())]

        assert [(await each.receipt()).version for each in asked] == [3, 4, 5]


async def test_two_at_work_never_spend_more_than_there_is(postgres_url: str) -> None:
    async with running_on(postgres_url) as (one, log), running_on(postgres_url) as (other, _):
        await done(one, create(balance=10))

        async def spend(number: int) -> CommandReceipt | TidemarkError:
            executor = (one, other)[number % 2]
            # Each under an id that the other one is asked for, too.
            return await ask(executor, command(change(by=-1), number // 2)).answer()

        answers = await asyncio.gather(*(spend(number) for number in range(2, 62)))
        await log.newest()
        events = (await events_of(log))[1:]

    receipts = [answer for answer in answers if isinstance(answer, CommandReceipt)]
    reasons = {answer.reason for answer in answers if isinstance(answer, TidemarkError)}
    assert reasons <= {"INSUFFICIENT_BALANCE", "WRONG_VERSION"}
    assert len(events) == 10
    assert {receipt.position for receipt in receipts} == {event.position for event in events}
    assert [receipt.duplicate for receipt in receipts].count(False) == 10
    assert [receipt.duplicate for receipt in receipts].count(True) == 10
