"""The faults of two command services on one PostgreSQL, and those of that PostgreSQL."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import asyncpg

from tests.postgres.databases import execute
from tests.torture.database import Database, own_server, server_with_small_disk
from tests.torture.faults import FAULTS, NOTICE_S, Fault, Strike, fill
from tests.torture.machine import reason_it_cannot_mount
from tests.torture.stage import Stage
from tests.torture.workload import RunFailed

MAX_DEADLOCKS = 5
OURS = "FROM pg_stat_activity WHERE application_name = 'tidemark'"


def _database(stage: Stage) -> Database:
    assert stage.database is not None  # these faults have one
    return stage.database


async def _kill_each(stage: Stage, choose: random.Random) -> None:
    """One command service after the other: there is always one."""
    for party in (stage.command, *stage.others):
        await party.kill()
        await asyncio.sleep(choose.uniform(0.2, 0.8))
        await party.start()
        await asyncio.sleep(choose.uniform(0, 0.3))


def _ended(end: Callable[[Database], None]) -> Strike:
    """The server ends in some way, and is started again."""

    async def strike(stage: Stage, choose: random.Random) -> None:
        database = _database(stage)
        for _ in range(2):
            await asyncio.to_thread(end, database)
            await asyncio.sleep(choose.uniform(0, 1))
            await asyncio.to_thread(database.server.start)
            await asyncio.sleep(choose.uniform(0.2, 0.5))

    return strike


async def _kill_backends(stage: Stage, choose: random.Random) -> None:
    """One process of the server dies, for which that ends all others, and recovers."""
    for _ in range(2):
        killed = False
        while not killed:
            # It may have ended by itself since.
            with contextlib.suppress(ProcessLookupError):
                os.kill(choose.choice(await _backends(stage)), signal.SIGKILL)
                killed = True
        # Until it has recovered: one that is told to stop meanwhile does not, in PostgreSQL 18.
        await _answering(stage)
        await asyncio.sleep(choose.uniform(0, 0.5))


async def _answering(stage: Stage) -> None:
    """Returns once the server takes connections again; whether the services do is theirs."""
    async with asyncio.timeout(NOTICE_S):
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                await execute(_database(stage).server.url, "SELECT 1")
                return
            await asyncio.sleep(0.05)


async def _backends(stage: Stage) -> list[int]:
    """The processes that serve the command services, once there are some."""
    found: list[int] = []
    async with asyncio.timeout(NOTICE_S):
        while not found:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                connection = await asyncpg.connect(_database(stage).server.url)
                try:
                    found = [row["pid"] for row in await connection.fetch(f"SELECT pid {OURS}")]
                finally:
                    await connection.close()
            await asyncio.sleep(0.05)
    return found


async def _terminate_connections(stage: Stage, choose: random.Random) -> None:
    for _ in range(8):
        await _terminate(stage)
        await asyncio.sleep(choose.uniform(0, 0.2))


async def _terminate(stage: Stage) -> None:
    await execute(_database(stage).server.url, f"SELECT pg_terminate_backend(pid) {OURS}")


async def _no_connections(stage: Stage, choose: random.Random) -> None:
    """Others have all connections that the server allows."""
    url = _database(stage).server.url
    taken: list[Any] = []
    try:
        await _take_all(url, taken)
        statement = f"SELECT pg_terminate_backend(pid) {OURS}"
        until = time.monotonic() + choose.uniform(1, 2)
        while time.monotonic() < until:
            await taken[0].execute(statement)
            await _take_all(url, taken)
            await asyncio.sleep(0.05)
    finally:
        for each in taken:
            await each.close()


async def _take_all(url: str, taken: list[Any]) -> None:
    with contextlib.suppress(asyncpg.TooManyConnectionsError):
        while True:
            taken.append(await asyncpg.connect(url))


async def _lock_tables(stage: Stage, choose: random.Random) -> None:
    """Somebody locks the tables, so that every connection of the services' has to wait."""
    connection = await asyncpg.connect(_database(stage).server.url)
    try:
        await connection.execute("SET lock_timeout = '10s'")
        for _ in range(2):
            seconds = choose.uniform(2, 3)
            for _attempt in range(MAX_DEADLOCKS):
                if await _are_locked_for(seconds, connection):
                    break
            else:
                raise RunFailed("The tables cannot be locked for deadlocks")
            await asyncio.sleep(choose.uniform(0, 0.3))
    finally:
        await connection.close()


async def _are_locked_for(seconds: float, connection: Any) -> bool:
    """False: a transaction of a service has some of them, and waits for others; to be tried again.

    PostgreSQL ends one of the two, after a second.
    """
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE log_events, log_head")
            await asyncio.sleep(seconds)
    except asyncpg.DeadlockDetectedError:
        return False
    except asyncpg.LockNotAvailableError as error:
        others = await connection.fetch(
            "SELECT pid, state, wait_event, query, pg_blocking_pids(pid) FROM pg_stat_activity"
        )
        raise RunFailed(f"Somebody keeps the tables: {list(map(dict, others))}") from error
    return True


async def _full_disk(stage: Stage, choose: random.Random) -> None:
    disk = _database(stage).disk
    assert disk is not None  # this fault has one
    await fill(disk, choose)


def _on_postgres(name: str) -> Fault:
    """A fault that there is on SQLite, too."""
    [known] = [each for each in FAULTS if each.name == name]
    return replace(known, name=f"{name}, PostgreSQL", database=own_server, others=1)


def _of_postgres(name: str, strike: Strike, felt_as: str = "UNAVAILABLE") -> Fault:
    return Fault(name, strike, database=own_server, others=1, felt_as=(felt_as,))


DATABASE_FAULTS = (
    *map(
        _on_postgres,
        (
            "nothing",
            "terminate command",
            "freeze command",
            "long freeze of command",
            "cut",
            "half-open",
            "half-close",
            "delay",
            "clocks",
        ),
    ),
    _of_postgres("kill command of two", _kill_each),
    _of_postgres("restart PostgreSQL", _ended(lambda database: database.server.stop())),
    _of_postgres("kill PostgreSQL", _ended(lambda database: database.server.kill())),
    _of_postgres("kill backend", _kill_backends),
    _of_postgres("terminate connections", _terminate_connections),
    _of_postgres("no connections", _no_connections),
    _of_postgres("locked tables", _lock_tables, "DEADLINE_EXCEEDED"),
    Fault(
        "full disk of PostgreSQL",
        _full_disk,
        database=server_with_small_disk,
        others=1,
        needs_privilege=True,
        reason_it_cannot=reason_it_cannot_mount,
        felt_as=("DISK_FULL",),
        reads_go_on=True,
    ),
)
"""Every one of them."""
