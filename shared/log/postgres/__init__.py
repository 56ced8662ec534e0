"""The log in PostgreSQL, with any number of processes that append to it."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

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
    Page,
    Receipt,
    Snapshot,
)
from shared.log.postgres import reading
from shared.log.postgres.connecting import (
    ANSWER_S,
    CLOSE_S,
    Connection,
    Database,
    Pool,
    borrowed,
    close,
    settle,
)
from shared.log.postgres.listening import Listener
from shared.log.postgres.schema import HEAD, migrate, verify
from shared.log.postgres.writing import Writer

READERS = 8
WRITERS = 2
"""Connections in each pool; one more listens."""

T = TypeVar("T")


class PostgresLog:
    """See `shared.log.log.EventLog`.

    Made by `open`. Nothing is trusted that is not confirmed by the database in the transaction that
    writes, since others append too.
    """

    is_exclusive = False

    def __init__(
        self, signal: HeadSignal, readers: Pool, writers: Pool, writer: Writer, listener: Listener
    ) -> None:
        self._signal = signal
        self._readers = readers
        self._writers = writers
        self._writer = writer
        self._writing: set[asyncio.Task[Any]] = set()
        self._listening = asyncio.create_task(listener.run(), name="listen")

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        allow_data_loss: bool = False,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> "PostgresLog":
        """Connects, and makes the tables, or brings them up to date.

        Args:
            url: libpq's, with one host or several: postgresql://user@host,host/database.
            allow_data_loss: whether a server is taken that can lose what it has acknowledged.
            clock: microseconds since 1970.

        Raises:
            Unavailable: LOG_UNAVAILABLE: no host answers as a server that can be written to;
                LOG_NOT_DURABLE: it can lose what it has acknowledged.
            DataLoss: LOG_CORRUPT: the last event is not what was written, or the tables are of
                a later version than this program.
        """
        database = Database(url, allow_data_loss=allow_data_loss)
        signal = HeadSignal(Head())

        async def prepare(connection: Connection) -> None:
            await settle(connection, signal.head)

        async def begin(connection: Connection) -> None:
            await migrate(connection)
            await prepare(connection)

        connection = await database.connect(begin)
        try:
            await verify(connection)
            signal.head = Head(*await connection.fetchrow(HEAD))
            channel = await connection.fetchval("SELECT 'tidemark_' || 'log_head'::regclass::oid")
        finally:
            await connection.close(timeout=CLOSE_S)
        readers = await database.pool(READERS, prepare, ANSWER_S)
        # A commit takes the time that it takes.
        writers = await database.pool(WRITERS, prepare, None)
        writer = Writer(writers, signal, channel, clock)
        return cls(signal, readers, writers, writer, Listener(database, prepare, signal, channel))

    @property
    def head(self) -> Head:
        """The newest durable event that this process knows of."""
        return self._signal.head

    async def newest(self) -> Head:
        """See `EventLog.newest`."""
        async with borrowed(self._readers) as connection:
            head = Head(*await connection.fetchrow(HEAD) or ())
        if head.position > self._signal.head.position:
            self._signal.move(head)
        return self._signal.head

    async def append(self, commits: Sequence[Commit]) -> list[Outcome]:
        """See `EventLog.append`."""
        return await self._undisturbed(self._writer.append(commits)) if commits else []

    async def copy(self, records: Sequence[bytes], digest: bytes = b"") -> None:
        """See `EventLog.copy`."""
        await self._undisturbed(self._writer.copy(records, digest))

    async def read(
        self,
        after: int,
        limit: int = MAX_PAGE_EVENTS,
        event_filter: EventFilter = EVERYTHING,
        until: int | None = None,
    ) -> Page:
        """See `EventLog.read`."""
        head = self.head
        until = (
            max(after, head.position) if until is None else min(until, max(after, head.position))
        )
        if after >= head.position:
            return Page([], after, head.digest)
        async with borrowed(self._readers) as connection:
            return await reading.read(connection, after, until, limit, event_filter, head)

    async def read_aggregate(
        self,
        key: AggregateKey,
        after_version: int = 0,
        until_position: int | None = None,
        limit: int = MAX_PAGE_EVENTS,
    ) -> list[bytes]:
        """See `EventLog.read_aggregate`."""
        async with borrowed(self._readers) as connection:
            return await reading.read_aggregate(
                connection, key, after_version, until_position, limit
            )

    async def load(self, schemas: Mapping[AggregateKey, bytes]) -> dict[AggregateKey, History]:
        """See `EventLog.load`."""
        if not schemas:
            return {}
        async with borrowed(self._readers) as connection:
            return await reading.load(connection, schemas)

    async def receipts(self, commands: Iterable[CommandKey]) -> dict[CommandKey, Receipt]:
        """See `EventLog.receipts`."""
        commands = list(commands)
        if not commands:
            return {}
        async with borrowed(self._readers) as connection:
            return await reading.receipts(connection, commands)

    async def snapshots(
        self, after: AggregateKey | None = None, limit: int = MAX_PAGE_SNAPSHOTS
    ) -> dict[AggregateKey, Snapshot]:
        """See `EventLog.snapshots`."""
        async with borrowed(self._readers) as connection:
            return await reading.snapshots(connection, after, limit)

    async def keep(self, snapshots: Mapping[AggregateKey, Snapshot]) -> None:
        """See `EventLog.keep`."""
        await self._undisturbed(self._writer.keep(snapshots))

    async def position_at(self, time: int) -> int:
        """See `EventLog.position_at`."""
        async with borrowed(self._readers) as connection:
            return await reading.position_at(connection, time)

    async def digest_at(self, position: int) -> bytes | None:
        """See `EventLog.digest_at`."""
        head = self.head
        if position >= head.position:
            return head.digest if position == head.position else None
        async with borrowed(self._readers) as connection:
            return await reading.digest_at(connection, position)

    async def event_time(self, after: int) -> int | None:
        """See `EventLog.event_time`."""
        async with borrowed(self._readers) as connection:
            return await reading.event_time(connection, after)

    async def wait(self, after: int) -> None:
        """See `EventLog.wait`."""
        await self._signal.wait(after)

    async def close(self) -> None:
        """See `EventLog.close`."""
        self._listening.cancel()
        await asyncio.gather(self._listening, *self._writing, return_exceptions=True)
        for pool in (self._readers, self._writers):
            await close(pool)

    async def _undisturbed(self, write: Coroutine[Any, Any, T]) -> T:
        """Lets a write end, and be known of, though its caller gives up."""
        writing = asyncio.create_task(write)
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)
