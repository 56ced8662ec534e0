"""A log moves from SQLite to PostgreSQL, and back, and nobody who has read it notices."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from command_service.copying import Step, copy_log
from command_service.executor import SNAPSHOT_EVERY
from shared.errors import DataLoss
from shared.log.log import EventLog, Head
from shared.log.memory import MemoryLog
from shared.log.opening import open_log
from tests.log.builders import Clock, command, commit, ship, snapshot, user
from tests.log.contract import two_tenants
from tests.log.reading import records_of
from tests.postgres.databases import execute, log_options
from tests.services.caller import Caller
from tests.services.commanding import of, send
from tests.services.deployment import Deployment, deployment
from tests.services.histories import WholeLog
from tests.services.test_processes import Ended, assert_failed_with_a_sentence, ended
from tidemark.v1.ship_pb2 import DockShip, GetShipRequest, RegisterShip

pytestmark = pytest.mark.timeout(60)

REGISTER = RegisterShip(name="Ever")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[EventLog]:
    log = await open_log(url)
    try:
        yield log
    finally:
        await log.close()


async def copied(source: str, target: str, folder: Path) -> Ended:
    return await ended("command_service", "copy", "--from", source, "--to", target, folder=folder)


async def test_a_log_moves_and_comes_back_and_its_readers_and_clients_go_on(
    postgres_url: str, tmp_path: Path
) -> None:
    first, last = f"sqlite:{tmp_path / 'log.db'}", f"sqlite:{tmp_path / 'back.db'}"
    async with deployment(tmp_path) as moving:
        docks = [of("ever", DockShip(port=f"Port {n}")) for n in range(250)]
        retried = of("ever", REGISTER, command_id=str(uuid4()))
        receipt = await send(moving.commands, retried)
        await Caller(moving.commands, moving.queries, "default").do(*docks)

        for number, (source, target) in enumerate(((first, postgres_url), (postgres_url, last))):
            before = await WholeLog.of(moving.commands)
            await moving.command.stop()
            process = await copied(source, target, tmp_path)
            assert process.code == 0, process.stderr
            assert before.checkpoint.digest.hex() in process.stdout
            await moving.start_command(*log_options(target))

            # The log is the same, a retry is recognized, and what is new comes after it.
            assert (await WholeLog.of(moving.commands)).records == before.records
            again = await send(moving.commands, retried, wait_for_ready=True)
            assert (again.duplicate, again.position) == (True, receipt.position)
            new = await send(moving.commands, of(f"new {number}", REGISTER))
            assert new.position == before.checkpoint.position + 1
            await _reads_on(moving, f"new {number}", new.position)

        assert (await WholeLog.of(moving.queries)).records == (
            await WholeLog.of(moving.commands)
        ).records
        # It has never begun anew.
        assert "LOG_DIVERGED" not in (tmp_path / "query.log").read_text(encoding="utf-8")

    versions = 1 + len(docks)
    newest = versions - versions % SNAPSHOT_EVERY
    for url in (first, postgres_url, last):
        async with opened(url) as log:
            [(key, kept)] = (await log.snapshots()).items()
            assert (key.aggregate_id, kept.version) == ("ever", newest)


async def _reads_on(moving: Deployment, ship_id: str, position: int) -> None:
    caller = Caller(moving.commands, moving.queries, "default")
    caller.position = position
    assert (await caller.ask(GetShipRequest(ship_id=ship_id))).ship.name == "Ever"


async def test_a_copy_that_was_interrupted_goes_on(postgres_url: str) -> None:
    source = await _source()
    steps: list[tuple[Step, int]] = []
    async with opened(postgres_url) as target:
        await target.copy((await records_of(source))[:4])

        head = await copy_log(source, target, lambda step, at, _: steps.append((step, at)))

        assert head == source.head == target.head
        assert await records_of(target) == await records_of(source)
        assert await target.snapshots() == await source.snapshots() != {}
        assert await target.receipts([command(1)]) == await source.receipts([command(1)]) != {}
        assert steps[0] == (Step.COPY, 4)
        assert steps[-1] == (Step.VERIFY, head.position)
        # And once more there is nothing to do.
        assert await copy_log(source, target, lambda *_: None) == head


@pytest.mark.parametrize("events", [1, 99])
async def test_what_is_not_a_beginning_of_the_source_is_refused(
    postgres_url: str, events: int
) -> None:
    source = await _source()
    async with opened(postgres_url) as target:
        await target.append([commit(user("other"), events=events)])
        head = target.head

        with pytest.raises(DataLoss) as refusal:
            await copy_log(source, target, lambda *_: None)

        assert refusal.value.reason == "LOG_DIVERGED"
        assert target.head == head


async def test_a_copy_that_is_damaged_is_noticed(postgres_url: str) -> None:
    source = await _source()
    async with opened(postgres_url) as target:
        await copy_log(source, target, lambda *_: None)
        await execute(
            postgres_url,
            "UPDATE log_events SET record = set_byte(record, 20, 0) WHERE position = 2",
        )

        with pytest.raises(DataLoss) as refusal:
            await copy_log(source, target, lambda *_: None)
        assert refusal.value.reason == "LOG_DIVERGED"


async def test_who_writes_to_the_source_meanwhile_is_not_waited_for(postgres_url: str) -> None:
    source = await _source()
    known = source.head

    def write(step: Step, *_: int) -> None:
        if step is Step.VERIFY and source.head == known:
            asyncio.get_running_loop().create_task(source.append([commit(user("late"))]))

    async with opened(postgres_url) as target:
        assert await copy_log(source, target, write) == known
        assert await copy_log(source, target, lambda *_: None) == source.head != known


async def test_a_source_that_is_in_use_or_is_not_there_is_refused(
    postgres_url: str, tmp_path: Path
) -> None:
    async with opened(f"sqlite:{tmp_path / 'log.db'}"):
        used = await copied(f"sqlite:{tmp_path / 'log.db'}", postgres_url, tmp_path)
    absent = await copied(f"sqlite:{tmp_path / 'absent.db'}", postgres_url, tmp_path)

    assert_failed_with_a_sentence(used, 1, "LOG_IN_USE")
    assert_failed_with_a_sentence(absent, 2, "There is no sqlite:")
    assert not (tmp_path / "absent.db").exists()
    async with opened(postgres_url) as target:
        assert target.head == Head()


async def _source() -> MemoryLog:
    """A log of two tenants, with snapshots and receipts."""
    source = MemoryLog(Clock())
    await source.append(two_tenants())
    await source.append([commit(ship("3"), events=2, command=command(1), snapshot=snapshot(2))])
    return source
