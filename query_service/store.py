"""Where a projection keeps its tables: a SQLite file for each time it was built.

A rebuild fills a new file beside the one that answers, and then declares it live. That one commit
is the switch: at the next start the newest live file counts and all others are deleted.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import structlog

from query_service.projection import Projection
from query_service.state_cache import StateCache
from query_service.states import States, read_state
from shared.errors import DataLoss
from shared.log.log import EMPTY_DIGEST, AggregateKey
from shared.sqlite import Connection, Readers, connect, naming
from shared.telemetry import tracing
from shared.telemetry.metrics import STATES_ASKED
from tidemark.v1.event_pb2 import RecordedEvent

CHECKPOINT = """
CREATE TABLE checkpoint (
    position INTEGER NOT NULL,
    digest BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    is_live INTEGER NOT NULL
) STRICT;
"""

logger = structlog.get_logger(__name__)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


@dataclass(frozen=True, slots=True)
class ProjectionCheckpoint:
    """How far a projection has come, and of which log."""

    position: int = 0
    digest: bytes = EMPTY_DIGEST


class ProjectionFailed(Exception):
    """The projection cannot apply an event; the cause says why."""


class ProjectionStore:
    """One file of one projection, and states of it in memory. Made by `open_live` or `create`."""

    def __init__(
        self,
        projection: Projection[Any],
        path: Path,
        writer: Connection,
        readers: Readers,
        checkpoint: ProjectionCheckpoint,
        *,
        is_live: bool,
    ) -> None:
        self._projection = projection
        self._path = path
        self._writer = writer
        self._readers = readers
        self.checkpoint = checkpoint
        self.is_live = is_live
        """Whether it was once declared live, and is what the projection would make today."""
        # Of the checkpoint: whatever moves that on changes this in the same step.
        self._states = StateCache()
        self._answered_position = 0
        self._hits = STATES_ASKED.labels(projection.name, "hit")
        self._misses = STATES_ASKED.labels(projection.name, "miss")

    @classmethod
    async def open_live(cls, folder: Path, projection: Projection[Any]) -> "ProjectionStore":
        """Opens the file that counts, or makes the first; deletes all others."""
        live: ProjectionStore | None = None
        try:
            for path in reversed(await asyncio.to_thread(files_of, folder, projection)):
                with naming(path):
                    store = await cls._open(path, projection)
                if live is None and store.is_live:
                    live = store
                else:
                    await store.delete()
        except BaseException:
            if live is not None:
                await live.close()
            raise
        return live or await cls.create(folder, projection, is_live=True)

    @classmethod
    async def create(
        cls, folder: Path, projection: Projection[Any], *, is_live: bool
    ) -> "ProjectionStore":
        """Makes an empty file, newer than all there are."""
        paths = await asyncio.to_thread(files_of, folder, projection)
        number = 1 + (int(paths[-1].stem.rpartition("-")[2]) if paths else 0)
        path = folder / f"{projection.name}-{number:06d}.db"
        store = await cls._open(path, projection)
        if is_live:
            try:
                await store.go_live()
            except BaseException:
                await store.close()
                raise
        return store

    @classmethod
    async def _open(cls, path: Path, projection: Projection[Any]) -> "ProjectionStore":
        # What a power loss undoes is built again from the copy of the log.
        writer = await connect(path, synchronous="NORMAL")
        try:
            checkpoint = await writer.run(prepare, projection)
            live = await writer.run(is_live, projection.fingerprint)
            readers = await Readers.connect(path)
        except BaseException:
            await writer.close()
            raise
        return cls(projection, path, writer, readers, checkpoint, is_live=live)

    async def apply(
        self, records: Sequence[bytes], checkpoint: ProjectionCheckpoint
    ) -> set[AggregateKey]:
        """Brings events and the checkpoint after them into the tables, in one transaction.

        Args:
            records: the log's after the last checkpoint; the projection takes its own.
            checkpoint: after them.

        Returns:
            The aggregates that were touched.

        Raises:
            ProjectionFailed: one of the events cannot be applied; nothing was.
        """
        begun = time.perf_counter()
        changed = await self._writer.run(apply, self._projection, self._states, records, checkpoint)
        seconds = time.perf_counter() - begun
        name, aggregate = self._projection.name, self._projection.aggregate
        tracing.tracer.record_events(f"project {name}", records, seconds, aggregate.name)
        self.checkpoint = checkpoint
        for key, state in changed.items():
            self._states.put(key, state)
        return set(changed)

    async def state(self, key: AggregateKey) -> tuple[bytes | None, int]:
        """The serialized state of an aggregate, if it exists, and the position that it is true of.

        Readers may see a commit before it is known here; an answer after theirs is as new.
        """
        position = self.checkpoint.position
        if position >= self._answered_position:
            with suppress(KeyError):
                state = self._states.get(key)
                self._hits.inc()
                return state, position
        self._misses.inc()
        state, position = await self.read(read_state, key)
        if position == self.checkpoint.position:
            self._states.put(key, state)
        return state, position

    async def read(
        self, work: Callable[[sqlite3.Connection, *Arguments], T], *arguments: *Arguments
    ) -> tuple[T, int]:
        """Runs a query, and says which position its answer is of."""
        result, position = await self._readers.run(_with_position, work, *arguments)
        self._answered_position = max(self._answered_position, position)
        return result, position

    async def go_live(self) -> None:
        """Makes this the file that counts."""
        await self._writer.run(_go_live)
        self.is_live = True

    async def close(self) -> None:
        """Waits for what runs and closes the file."""
        await self._readers.close()
        await self._writer.close()

    async def delete(self) -> None:
        """Closes the file and removes it; if it cannot be removed, it is at the next start."""
        await self.close()
        try:
            await asyncio.to_thread(_delete, self._path)
        except OSError:
            logger.warning("projection_file_left", path=str(self._path), exc_info=True)


# An error of the machine, not of the projection: to be tried again.
_TRANSIENT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
}


def files_of(folder: Path, projection: Projection[Any]) -> list[Path]:
    """The projection's files, oldest first."""
    return sorted(folder.glob(f"{projection.name}-{'[0-9]' * 6}.db"))


def _delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def prepare(db: sqlite3.Connection, projection: Projection[Any]) -> ProjectionCheckpoint:
    """Makes the tables if there are none, and returns how far they have come."""
    if is_empty(db):
        db.executescript(f"BEGIN; {CHECKPOINT} {projection.whole_schema}")
        db.execute(
            "INSERT INTO checkpoint VALUES (0, ?, ?, 0)",
            (EMPTY_DIGEST, projection.fingerprint),
        )
        db.execute("COMMIT")
    return checkpoint_of(db)


def is_empty(db: sqlite3.Connection) -> bool:
    """Whether there are no tables: it is about to be made, or whoever was making it has ended."""
    tables: int = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return tables == 0


def checkpoint_of(db: sqlite3.Connection) -> ProjectionCheckpoint:
    """How far the tables have come.

    Raises:
        DataLoss: LOG_CORRUPT: they do not say it.
    """
    found = db.execute("SELECT position, digest FROM checkpoint").fetchall()
    if len(found) != 1:
        raise DataLoss("LOG_CORRUPT", "Its checkpoint is lost")
    return ProjectionCheckpoint(*found[0])


def is_live(db: sqlite3.Connection, fingerprint: bytes) -> bool:
    """Whether it was once declared live, and is what a projection of a fingerprint would make."""
    # An earlier program's file has other columns.
    row = db.execute("SELECT * FROM checkpoint").fetchone()
    return bool(row[2:] == (fingerprint, 1))


def _go_live(db: sqlite3.Connection) -> None:
    db.execute("UPDATE checkpoint SET is_live = 1")


def apply(
    db: sqlite3.Connection,
    projection: Projection[Any],
    cache: StateCache,
    records: Sequence[bytes],
    checkpoint: ProjectionCheckpoint,
) -> dict[AggregateKey, bytes]:
    """Brings events and the checkpoint after them into the tables; returns what changed.

    Raises:
        ProjectionFailed: one of the events cannot be applied; nothing was.
    """

    def read(key: AggregateKey) -> bytes | None:
        try:
            return cache.peek(key)
        except KeyError:
            return read_state(db, key)

    db.execute("BEGIN IMMEDIATE")
    try:
        changed = _applied(db, projection, States(projection.aggregate, read), records)
        db.execute(
            "UPDATE checkpoint SET position = ?, digest = ?",
            (checkpoint.position, checkpoint.digest),
        )
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return changed


def _applied(
    db: sqlite3.Connection,
    projection: Projection[Any],
    states: States[Any],
    records: Sequence[bytes],
) -> dict[AggregateKey, bytes]:
    try:
        projection.apply(db, _events_of(projection.aggregate.name, records), states)
        return states.write(db, projection.columns)
    except Exception as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _TRANSIENT:
            raise
        raise ProjectionFailed(f"{type(error).__name__}: {error}") from error


def _events_of(aggregate_type: str, records: Sequence[bytes]) -> Iterator[RecordedEvent]:
    for record in records:
        event = RecordedEvent.FromString(record)
        if event.aggregate_type == aggregate_type:
            yield event


def _with_position(
    db: sqlite3.Connection,
    work: Callable[[sqlite3.Connection, *Arguments], T],
    *arguments: *Arguments,
) -> tuple[T, int]:
    result = work(db, *arguments)
    return result, db.execute("SELECT position FROM checkpoint").fetchone()[0]
