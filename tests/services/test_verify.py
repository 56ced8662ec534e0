"""`verify` beside services that run, that were killed, and that have to refuse to start."""

import asyncio
import os
import pty
import shutil
import sys
from pathlib import Path

from examples.services import Service
from tests.log.damaging import change
from tests.services.caller import Caller
from tests.services.commanding import CALL_S
from tests.services.deployment import Deployment
from tests.services.load import load
from tests.services.operating import Ended, events_verified, operate
from tests.services.traffic import traffic
from tidemark.v1.query_pb2 import RebuildProjectionRequest
from tidemark.v1.ship_pb2 import GetShipRequest
from tidemark.v1.user_pb2 import GetUserRequest


async def verify_log(own: Deployment) -> Ended:
    return await operate("command_service", "verify", "--log", f"sqlite:{own.folder / 'log.db'}")


async def verify_store(own: Deployment) -> Ended:
    return await operate("query_service", "verify", "--store", str(own.folder / "query"))


async def test_services_are_verified_while_they_take_commands(own: Deployment) -> None:
    async with load(own) as caller:
        before = caller.position
        # Beside a rebuild, which puts another file in the place of the one that is verified.
        log, store, _ = await asyncio.gather(verify_log(own), verify_store(own), rebuild_often(own))
        between = caller.position

    assert events_verified(log) >= before
    assert events_verified(store) > 0
    assert between > before
    assert ", 2 projections verified" in store.stdout
    assert await caller.ask(GetUserRequest(user_id="ada"))
    assert [await own.query.stop(), await own.command.stop()] == [0, 0]
    log, store = await asyncio.gather(verify_log(own), verify_store(own))
    assert events_verified(log) == events_verified(store) == caller.position
    # Those of the executor's own making are among what was verified.
    assert " 0 snapshots" not in log.stdout


async def rebuild_often(own: Deployment) -> None:
    for name in ("ships", "users") * 2:
        request = RebuildProjectionRequest(name=name)
        async for _ in own.queries.projections.RebuildProjection(request, timeout=CALL_S):
            pass


async def test_what_killed_services_leave_is_verified_and_left_as_it_is(own: Deployment) -> None:
    async with load(own) as caller:
        await caller.ask(GetUserRequest(user_id="ada"))
    await own.command.kill()
    await own.query.kill()
    before = contents(own.folder)

    log, store = await asyncio.gather(verify_log(own), verify_store(own))

    assert events_verified(log) == caller.position
    assert 0 < events_verified(store) <= caller.position
    assert (own.folder / "log.db-wal").stat().st_size > 0
    assert contents(own.folder) == before
    await own.start_command()
    await own.start_query()
    assert await caller.ask(GetUserRequest(user_id="ada"))


def contents(folder: Path) -> dict[Path, bytes]:
    """All files but those in which SQLite keeps nothing that lasts, and what the services say."""
    return {
        file: file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in {".db-shm", ".log"}
    }


async def test_a_wal_that_was_cut_off_is_a_log_that_ends_earlier(own: Deployment) -> None:
    """It is what the readers' checkpoints are for."""
    caller = Caller(own.commands, own.queries, "default")
    commands = traffic(seed=1, count=200)
    for start in range(0, 200, 10):
        await caller.do(*commands[start : start + 10])
    await own.command.kill()
    wal = own.folder / "log.db-wal"
    os.truncate(wal, wal.stat().st_size * 3 // 4)

    assert 0 < events_verified(await verify_log(own)) < caller.position


async def test_findings_are_told_on_standard_output_and_by_the_exit_code(own: Deployment) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(*traffic(seed=1, count=100))
    await caller.ask(GetShipRequest(ship_id="ship-1"))
    await own.query.stop()
    await own.command.stop()
    change(own.folder / "log.db", "DELETE FROM versions WHERE position = 50")
    change(own.folder / "query" / "ships-000001.db", "DELETE FROM states")

    log, store = await asyncio.gather(verify_log(own), verify_store(own))

    assert (log.code, store.code) == (1, 1)
    assert log.stdout.startswith("Position 50: the index entry of version ")
    assert log.closing.endswith(" verified, 1 finding")
    assert store.stdout.startswith("Projection ships at position 100: table states: row ")
    assert store.closing.endswith(" verified, 9 findings")
    assert log.stderr == store.stderr == ""


async def test_on_a_terminal_there_is_a_bar(tmp_path: Path) -> None:
    service = await Service.start(
        "command_service",
        *("--listen", "127.0.0.1:0", "--log", f"sqlite:{tmp_path / 'log.db'}"),
        log=tmp_path / "stderr",
    )
    await service.stop()
    terminal, ours = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "command_service", "verify"),
        *("--log", f"sqlite:{tmp_path / 'log.db'}"),
        stdout=ours,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(ours)
    code = await process.wait()
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)

    assert code == 0
    assert "━" in shown
    assert "0 events, " in shown
    assert "verified, 0 findings" in shown


# Refusing to start

DAMAGED = {
    "the end of the log": (
        "log.db",
        "UPDATE chunks SET digest = zeroblob(32)",
        "are not what was written",
    ),
    "an index that lacks the last event": (
        "log.db",
        "DELETE FROM versions WHERE position = (SELECT max(position) FROM versions)",
        "The index lacks the event at position 100",
    ),
    "a log that lost its end": (
        "log.db",
        "DELETE FROM chunks WHERE position = (SELECT max(position) FROM chunks)",
        "its index later",
    ),
    "a projection without a checkpoint": (
        "ships-000001.db",
        "DELETE FROM checkpoint",
        "Its checkpoint is lost",
    ),
}


async def test_services_refuse_to_start_on_what_is_damaged_and_name_the_file(
    own: Deployment,
) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(*traffic(seed=1, count=100))
    await caller.ask(GetShipRequest(ship_id="ship-1"))
    await own.query.stop()
    await own.command.stop()
    for what, (file, statement, sentence) in DAMAGED.items():
        store = Path(shutil.copytree(own.folder / "query", own.folder / what))
        change(store / file, statement)
        # Both keep a log of the same kind.
        refusals = [await serve("query_service", "--store", str(store))]
        if file == "log.db":
            refusals.append(await serve("command_service", "--log", f"sqlite:{store / file}"))
        for refusal in refusals:
            assert (refusal.code, refusal.stdout) == (1, "")
            assert f"LOG_CORRUPT: {store / file}: " in refusal.stderr
            assert sentence in refusal.stderr
            assert "Traceback" not in refusal.stderr


async def serve(module: str, *arguments: str) -> Ended:
    return await operate(module, "serve", "--listen", "127.0.0.1:0", *arguments)
