"""What a service might get wrong. A checker that does not find it out is no checker."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import query_service.store
from query_service.state_cache import StateCache
from query_service.store import ProjectionCheckpoint
from shared.log.log import AggregateKey, CommandKey, Commit, Committed, Outcome, Receipt
from shared.log.sqlite import SqliteLog

LATE_S = 0.05


def synchronous_off() -> None:
    """The log is not forced to the disk."""
    open_log = SqliteLog.open

    async def open_carelessly(path: Any, **options: Any) -> SqliteLog:
        return await open_log(path, **{**options, "synchronous": "OFF"})

    SqliteLog.open = open_carelessly  # type: ignore[method-assign]  # that is the point


def receipts_before_commit() -> None:
    """Commands are acknowledged before their events are written."""
    append = SqliteLog.append
    late: set[asyncio.Task[None]] = set()
    order = asyncio.Lock()
    promised = 0

    async def append_later(log: SqliteLog, commits: Sequence[Commit]) -> None:
        await asyncio.sleep(LATE_S)
        async with order:
            await append(log, commits)

    async def promise(log: SqliteLog, commits: Sequence[Commit]) -> list[Outcome]:
        nonlocal promised
        outcomes: list[Outcome] = []
        promised = max(promised, log.head.position)
        for commit in commits:
            promised += len(commit.events)
            outcomes.append(Committed(promised))
        task = asyncio.create_task(append_later(log, commits))
        late.add(task)
        task.add_done_callback(late.discard)
        return outcomes

    SqliteLog.append = promise  # type: ignore[method-assign,assignment]  # that is the point


def idempotency_off() -> None:
    """Nobody looks whether a command was executed before."""
    append = SqliteLog.append

    async def append_blindly(log: SqliteLog, commits: Sequence[Commit]) -> list[Outcome]:
        for commit in commits:
            commit.command = None
        return await append(log, commits)

    async def no_receipts(
        log: SqliteLog, commands: Iterable[CommandKey]
    ) -> Mapping[CommandKey, Receipt]:
        return {}

    SqliteLog.append = append_blindly  # type: ignore[method-assign,assignment]  # that is the point
    SqliteLog.receipts = no_receipts  # type: ignore[method-assign,assignment]  # the same


def checkpoint_apart() -> None:
    """A projection's checkpoint is kept in another transaction than its rows: the next one."""
    apply = query_service.store.apply
    late: dict[sqlite3.Connection, ProjectionCheckpoint] = {}

    def apply_apart(
        db: sqlite3.Connection,
        projection: Any,
        cache: StateCache,
        records: Sequence[bytes],
        checkpoint: ProjectionCheckpoint,
    ) -> dict[AggregateKey, bytes]:
        row = db.execute("SELECT position, digest FROM checkpoint").fetchone()
        before = late.get(db, ProjectionCheckpoint(*row))
        changed = apply(db, projection, cache, records, before)
        late[db] = checkpoint
        return changed

    query_service.store.apply = apply_apart


WEAKNESSES: Mapping[str, Callable[[], None]] = {
    "synchronous off": synchronous_off,
    "receipts before commit": receipts_before_commit,
    "idempotency off": idempotency_off,
    "checkpoint apart": checkpoint_apart,
}
