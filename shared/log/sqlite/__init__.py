"""The log in one SQLite file, with one process that appends to it."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import structlog

from shared.errors import TidemarkError
from shared.log.log import (
    EVERYTHING,
    MAX_PAGE_EVENTS,
    MAX_PAGE_SNAPSHOTS,
    AggregateKey,
    CommandKey,
    Commit,
    EventFilter,
    Head,
    HeadSignal,
    History,
    Outcome,
    OutcomeUnknown,
    Page,
    Receipt,
    Snapshot,
    place_of,
)
from shared.log.sqlite import reading
from shared.log.sqlite.indexing import Index, complete_receipts
from shared.log.sqlite.newest import Newest
from shared.log.sqlite.schema import Tail, prepare
from shared.log.sqlite.unindexed import Events, Unindexed
from shared.log.sqlite.writing import Known, Transaction, Written
from shared.sqlite import Connection, FileLock, Readers, Synchronous, connect, make_durable, naming
from tidemark.v1.event_pb2 import RecordedEvent

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

MAX_SCANS = 2
"""Filtered reads at once."""

logger = structlog.get_logger(__name__)


class SqliteLog:
    """See `shared.log.log.EventLog`.

    Made by `open`. Everything that writes goes through one connection; what it knows of aggregates
    it keeps in memory, which is right because nobody else appends. A commit writes the events and
    nothing else; the index follows some thousand events behind. What it lacks is in memory, twice:
    the writer's thread has its own, and the event loop adds what was written when it is durable.
    """

    is_exclusive = True

    def __init__(
        self,
        lock: FileLock,
        writer: Connection,
        readers: Readers,
        tail: Tail,
        index: Index,
        clock: Callable[[], int],
    ) -> None:
        self._lock = lock
        self._writer = writer
        self._readers = readers
        self._signal = HeadSignal(tail.head)
        self._newest = Newest(tail.unindexed, tail.digest_before)
        self._unindexed = Unindexed()
        self._unindexed.add(Events.of(tail.unindexed))
        self._clock = clock
        # Those who look through the log leave connections to those who only look something up.
        self._scans = asyncio.Semaphore(MAX_SCANS)
        self._loop = asyncio.get_running_loop()
        # Only the writer's thread touches these.
        self._known = Known(tail.head, Events.of(tail.unindexed))
        self._index = index

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        synchronous: Synchronous = "FULL",
        with_receipts: bool = True,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> "SqliteLog":
        """Opens the file, and makes it if it is not there.

        Args:
            path: of the database; beside it come `-wal`, `-shm` and `.lock`.
            synchronous: FULL where a receipt is a promise; NORMAL for a copy.
            with_receipts: whether `append` and `receipts` will be asked for; a copy that only
                follows is faster without. They are completed when it is next opened with them.
            clock: microseconds since 1970.

        Raises:
            Unavailable: LOG_IN_USE: another process has it open.
            DataLoss: LOG_CORRUPT: its last events do not continue the digest chain, or it is of
                another version than this program.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(path.name + ".lock"))
        try:
            with naming(path):
                writer, readers, tail = await _connect(path, synchronous, with_receipts)
        except BaseException:
            lock.release()
            raise
        return cls(lock, writer, readers, tail, Index(with_receipts=with_receipts), clock)

    @property
    def head(self) -> Head:
        """The newest durable event."""
        return self._signal.head

    async def newest(self) -> Head:
        """See `EventLog.newest`."""
        return self.head

    async def append(self, commits: Sequence[Commit]) -> list[Outcome]:
        """See `EventLog.append`."""
        return await self._write(self._append, commits)

    async def copy(self, records: Sequence[bytes], digest: bytes = b"") -> None:
        """See `EventLog.copy`."""
        await self._write(Transaction.copy, records, digest)

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
        if self._newest.reaches_back_to(after):
            return self._newest.page(after, until, limit, event_filter)
        async with self._scans if event_filter != EVERYTHING else nullcontext():
            return await self._readers.run(reading.read, after, until, limit, event_filter)

    async def read_aggregate(
        self,
        key: AggregateKey,
        after_version: int = 0,
        until_position: int | None = None,
        limit: int = MAX_PAGE_EVENTS,
    ) -> list[bytes]:
        """See `EventLog.read_aggregate`."""
        recent = self._unindexed.recent(key)
        records: list[bytes] = []
        if not recent.reaches_back_to(after_version):
            records = await self._readers.run(
                reading.read_aggregate, key, after_version, until_position, limit
            )
        return recent.added_to(records, after_version, until_position, limit)

    async def load(self, schemas: Mapping[AggregateKey, bytes]) -> dict[AggregateKey, History]:
        """See `EventLog.load`."""
        recent = {key: self._unindexed.recent(key, schema) for key, schema in schemas.items()}
        found = ((key, each.history()) for key, each in recent.items())
        histories = {key: history for key, history in found if history is not None}
        # A snapshot that is in the index and was replaced by one of another schema counts no more.
        older = {
            key: b"" if key in self._unindexed.snapshots else schema
            for key, schema in schemas.items()
            if key not in histories
        }
        if not older:
            return histories
        for key, history in (await self._readers.run(reading.load, older)).items():
            after_version = history.snapshot.version if history.snapshot else 0
            recent[key].added_to(history.records, after_version)
            histories[key] = history
        return histories

    async def receipts(self, commands: Iterable[CommandKey]) -> dict[CommandKey, Receipt]:
        """See `EventLog.receipts`."""
        found = {}
        older = []
        for command in commands:
            receipt = self._unindexed.receipts.get(command)
            if receipt is None:
                older.append(command)
            else:
                found[command] = Receipt.of(RecordedEvent.FromString(receipt[1]))
        return found | await self._readers.run(reading.receipts, older) if older else found

    async def snapshots(
        self, after: AggregateKey | None = None, limit: int = MAX_PAGE_SNAPSHOTS
    ) -> dict[AggregateKey, Snapshot]:
        """See `EventLog.snapshots`."""
        newer = dict(self._unindexed.snapshots)
        found = await self._readers.run(reading.snapshots, after, limit)
        found.update(
            (key, snapshot)
            for key, snapshot in newer.items()
            if after is None or place_of(key) > place_of(after)
        )
        return {key: found[key] for key in sorted(found, key=place_of)[:limit]}

    async def keep(self, snapshots: Mapping[AggregateKey, Snapshot]) -> None:
        """See `EventLog.keep`."""
        await self._writer.run(self._keep, snapshots)

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
        """See `EventLog.close`. The writer goes last, with what is yet to be written."""
        await self._readers.close()
        try:
            await self._writer.run(self._index.add, self._known)
        except (TidemarkError, OutcomeUnknown):
            # It only makes the next start faster.
            logger.warning("index_not_completed", exc_info=True)
        finally:
            await self._writer.close()
            self._lock.release()

    async def _write(
        self,
        work: Callable[[Transaction, *Arguments], T],
        *arguments: *Arguments,
    ) -> T:
        """Has a transaction made; it ends, and is known of, though its caller gives up."""
        return await self._writer.run(self._transact, work, arguments)

    def _transact(
        self,
        db: sqlite3.Connection,
        work: Callable[[Transaction, *Arguments], T],
        arguments: tuple[*Arguments],
    ) -> T:
        """Runs in the writer's thread."""
        if self._index.is_due(self._known):
            self._index.add(db, self._known)
            self._loop.call_soon_threadsafe(self._forget_indexed)
        with Transaction(db, self._known) as transaction:
            result = work(transaction, *arguments)
        # Before whoever waits for the transaction goes on.
        self._loop.call_soon_threadsafe(self._add, transaction.written)
        return result

    def _keep(self, db: sqlite3.Connection, snapshots: Mapping[AggregateKey, Snapshot]) -> None:
        """Runs in the writer's thread."""
        self._index.keep(db, self._known, snapshots)
        self._loop.call_soon_threadsafe(self._forget_indexed)

    def _forget_indexed(self) -> None:
        """The index has everything."""
        self._unindexed = Unindexed()

    def _add(self, written: Written) -> None:
        self._unindexed.add(written.events)
        self._newest.add(written.chunks)
        self._signal.move(written.head)

    def _append(self, transaction: Transaction, commits: Sequence[Commit]) -> list[Outcome]:
        return transaction.append(commits, self._clock())


async def _connect(
    path: Path, synchronous: Synchronous, with_receipts: bool
) -> tuple[Connection, Readers, Tail]:
    writer = await connect(path, synchronous=synchronous)
    try:
        await writer.run(make_durable)
        tail = await writer.run(prepare)
        if with_receipts:
            await writer.run(complete_receipts)
        return writer, await Readers.connect(path), tail
    except BaseException:
        await writer.close()
        raise
