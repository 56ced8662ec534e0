"""The log in one SQLite file, with one process that appends to it."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from shared.log.log import (
    EVERYTHING,
    MAX_PAGE_EVENTS,
    AggregateKey,
    CommandKey,
    Commit,
    EventFilter,
    Head,
    HeadSignal,
    History,
    Outcome,
    Page,
    Receipt,
)
from shared.log.sqlite import reading
from shared.log.sqlite.schema import prepare
from shared.log.sqlite.writing import Known, Transaction
from shared.sqlite import Connection, FileLock, Readers, Synchronous, connect

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class SqliteLog:
    """See `shared.log.log.EventLog`.

    Made by `open`. Everything that writes goes through one connection; what it knows of aggregates
    it keeps in memory, which is right because nobody else appends.
    """

    is_exclusive = True

    def __init__(
        self,
        lock: FileLock,
        writer: Connection,
        readers: Readers,
        head: Head,
        clock: Callable[[], int],
    ) -> None:
        self._lock = lock
        self._writer = writer
        self._readers = readers
        self._signal = HeadSignal(head)
        self._clock = clock
        self._writing: set[asyncio.Task[Any]] = set()
        # Only the writer's thread touches this.
        self._known = Known(head)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        synchronous: Synchronous = "FULL",
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> "SqliteLog":
        """Opens the file, and makes it if it is not there.

        Args:
            path: of the database; beside it come `-wal`, `-shm` and `.lock`.
            synchronous: FULL where a receipt is a promise; NORMAL for a copy.
            clock: microseconds since 1970.

        Raises:
            Unavailable: LOG_IN_USE: another process has it open.
            DataLoss: LOG_CORRUPT: it does not end in an event that continues the digest chain, or
                it is of a later version than this program.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(path.name + ".lock"))
        try:
            writer = await connect(path, synchronous=synchronous)
            try:
                head = await writer.run(prepare)
                readers = await Readers.connect(path)
            except BaseException:
                await writer.close()
                raise
        except BaseException:
            lock.release()
            raise
        return cls(lock, writer, readers, head, clock)

    @property
    def head(self) -> Head:
        """The newest durable event."""
        return self._signal.head

    async def append(self, commits: Sequence[Commit]) -> list[Outcome]:
        """See `EventLog.append`."""
        return await self._undisturbed(self._write(self._append, commits))

    async def copy(self, records: Sequence[bytes], digest: bytes = b"") -> None:
        """See `EventLog.copy`."""
        await self._undisturbed(self._write(self._copy, records, digest))

    async def read(
        self,
        after: int,
        limit: int = MAX_PAGE_EVENTS,
        event_filter: EventFilter = EVERYTHING,
        until: int | None = None,
    ) -> Page:
        """See `EventLog.read`."""
        head = max(after, self.head.position)
        until = head if until is None else min(until, head)
        if event_filter == EVERYTHING:
            return await self._readers.run(reading.read_all, after, until, limit)
        return await self._readers.run(reading.read_filtered, after, until, limit, event_filter)

    async def read_aggregate(
        self,
        key: AggregateKey,
        after_version: int = 0,
        until_position: int | None = None,
        limit: int = MAX_PAGE_EVENTS,
    ) -> list[bytes]:
        """See `EventLog.read_aggregate`."""
        return await self._readers.run(
            reading.read_aggregate, key, after_version, until_position, limit
        )

    async def load(self, schemas: Mapping[AggregateKey, bytes]) -> dict[AggregateKey, History]:
        """See `EventLog.load`."""
        return await self._readers.run(reading.load, schemas)

    async def receipts(self, commands: Iterable[CommandKey]) -> dict[CommandKey, Receipt]:
        """See `EventLog.receipts`."""
        return await self._readers.run(reading.receipts, commands)

    async def position_at(self, time: int) -> int:
        """See `EventLog.position_at`."""
        return await self._readers.run(reading.position_at, time)

    async def digest_at(self, position: int) -> bytes | None:
        """See `EventLog.digest_at`."""
        if position > self.head.position:
            return None
        return await self._readers.run(reading.digest_at, position)

    async def event_time(self, after: int) -> int | None:
        """See `EventLog.event_time`."""
        return await self._readers.run(reading.event_time, after)

    async def wait(self, after: int) -> None:
        """See `EventLog.wait`."""
        await self._signal.wait(after)

    async def close(self) -> None:
        """See `EventLog.close`. The writer goes last: it empties the WAL."""
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._readers.close()
        await self._writer.close()
        self._lock.release()

    async def _undisturbed(self, write: Coroutine[Any, Any, T]) -> T:
        """Lets a write end, and be known of, though its caller gives up."""
        writing = asyncio.create_task(write)
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)

    async def _write(
        self,
        work: Callable[[sqlite3.Connection, *Arguments], tuple[Head, T]],
        *arguments: *Arguments,
    ) -> T:
        head, result = await self._writer.run(work, *arguments)
        self._signal.move(head)
        return result

    def _append(
        self, db: sqlite3.Connection, commits: Sequence[Commit]
    ) -> tuple[Head, list[Outcome]]:
        now = self._clock()
        with Transaction(db, self._known) as transaction:
            outcomes = [transaction.append(commit, now) for commit in commits]
        return self._known.head, outcomes

    def _copy(
        self, db: sqlite3.Connection, records: Sequence[bytes], digest: bytes
    ) -> tuple[Head, None]:
        with Transaction(db, self._known) as transaction:
            for record in records:
                transaction.copy(record)
            transaction.verify(digest)
        return self._known.head, None
