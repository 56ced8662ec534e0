"""What is written to the tables, in one round trip, and what is done when its answer is lost."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import structlog

from shared.errors import Unavailable
from shared.log.log import (
    AggregateKey,
    Commit,
    Head,
    HeadSignal,
    Outcome,
    OutcomeUnknown,
    Receipt,
    Snapshot,
)
from shared.log.postgres.connecting import DIGEST, LOST, Connection, Pool, borrowed
from shared.log.postgres.group import Copied, Group, Known, Row
from tidemark.v1.event_pb2 import RecordedEvent

OPTIMISTIC_ATTEMPTS = 3
"""After so many that another writer was faster at, the head is locked before all else."""

SILENCE_S = 6.0
"""After which a connection on which there is no answer is given up, and the server asked on another
what became of a commit."""

RESOLVE_S = 60.0
RETRY_S = 0.2

# What contradicts an assumption. Each look-up is one of an index, whatever the planner believes.
CHECKS = """
moved AS (
    SELECT wanted.number, coalesce(newest.version, 0) AS version
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY
        AS wanted (tenant_id, aggregate_type, aggregate_id, version, number)
    LEFT JOIN LATERAL (
        SELECT event.version FROM log_events AS event
        WHERE event.aggregate_id = wanted.aggregate_id
            AND event.aggregate_type = wanted.aggregate_type
            AND event.tenant_id = wanted.tenant_id
        ORDER BY event.version DESC LIMIT 1
    ) AS newest ON true
    WHERE coalesce(newest.version, 0) <> wanted.version
),
repeated AS (
    SELECT wanted.number, last.record
    FROM unnest($5::text[], $6::uuid[]) WITH ORDINALITY AS wanted (tenant_id, command_id, number)
    CROSS JOIN LATERAL (
        SELECT event.record FROM log_events AS event
        WHERE event.command_id = wanted.command_id AND event.tenant_id = wanted.tenant_id
        LIMIT 1
    ) AS last
)
"""

FOUND = """
    head.position, head.digest, head.time, head.fence,
    ARRAY(SELECT number FROM moved ORDER BY number) AS moved,
    ARRAY(SELECT version FROM moved ORDER BY number) AS versions,
    ARRAY(SELECT number FROM repeated ORDER BY number) AS repeated,
    ARRAY(SELECT record FROM repeated ORDER BY number) AS receipts
"""

INSTEAD = """
    ON CONFLICT (aggregate_id, aggregate_type, tenant_id) DO UPDATE
        SET version = excluded.version, schema = excluded.schema, state = excluded.state
"""

KEEP = f"""
INSERT INTO log_snapshots (tenant_id, aggregate_type, aggregate_id, version, schema, state)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::bigint[], $5::bytea[], $6::bytea[]
) AS snapshot
{INSTEAD}
"""  # noqa: S608  # ours

LOOK = f"WITH {CHECKS} SELECT {FOUND} FROM log_head AS head"  # noqa: S608  # ours

# All or nothing, in one statement, which is one transaction. It sees the log as it was when it
# began; once it has the head's lock, and finds the head still where it was taken to be, nothing has
# been committed since, so what it sees is the log as it is.
WRITE = f"""
WITH head AS (SELECT * FROM log_head FOR UPDATE),
{CHECKS},
fit AS (
    SELECT FROM head
    WHERE position = $7 AND digest = $8 AND fence = $9
        AND NOT EXISTS (SELECT FROM moved) AND NOT EXISTS (SELECT FROM repeated)
),
events AS (
    INSERT INTO log_events (
        position, tenant_id, aggregate_type, aggregate_id, version, time, command_id, digest, record
    )
    SELECT event.* FROM fit, unnest(
        $10::bigint[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::bigint[],
        $16::uuid[], $17::bytea[], $18::bytea[]
    ) AS event
),
snapshots AS (
    INSERT INTO log_snapshots (tenant_id, aggregate_type, aggregate_id, version, schema, state)
    SELECT snapshot.* FROM fit, unnest(
        $19::text[], $20::text[], $21::text[], $22::bigint[], $23::bytea[], $24::bytea[]
    ) AS snapshot
    {INSTEAD}
),
advanced AS (
    UPDATE log_head SET position = $25::bigint, digest = $26, time = $27 FROM fit
    RETURNING pg_notify($28, $25::bigint::text)
)
SELECT {FOUND}, (SELECT count(*) FROM advanced) AS written FROM head
"""  # noqa: S608  # ours

LOCK = "SELECT FROM log_head FOR UPDATE"
MOVE_FENCE = "UPDATE log_head SET fence = fence + 1 RETURNING fence"
TAKE_RECEIPTS = """
    UPDATE log_events AS event SET command_id = NULL
    FROM unnest($1::text[], $2::uuid[]) AS later (tenant_id, command_id)
    WHERE event.command_id = later.command_id AND event.tenant_id = later.tenant_id
"""

Batch = Group | Copied
BatchT = TypeVar("BatchT", Group, Copied)
T = TypeVar("T")

logger = structlog.get_logger(__name__)


class Writer:
    """Writes for one process; others write beside it.

    Args:
        pool: of two connections: one to write on, and one to ask on what became of it.
        signal: moved with what is written.
        channel: on which other processes are told.
        clock: microseconds since 1970.
    """

    def __init__(
        self, pool: Pool, signal: HeadSignal, channel: str, clock: Callable[[], int]
    ) -> None:
        self._pool = pool
        self._signal = signal
        self._channel = channel
        self._clock = clock
        self._fence = 0
        # A process's own commits are not to race each other.
        self._turn = asyncio.Lock()

    async def append(self, commits: Sequence[Commit]) -> list[Outcome]:
        """See `EventLog.append`."""
        async with self._turn, borrowed(self._pool) as connection:
            group = await self._appended(connection, commits)
        self._move(group.head)
        return group.outcomes

    async def copy(self, records: Sequence[bytes], digest: bytes) -> None:
        """See `EventLog.copy`."""
        copied = Copied(records)
        async with self._turn, borrowed(self._pool) as connection:
            await self._copied(connection, copied, digest)
        self._move(copied.head)

    async def keep(self, snapshots: Mapping[AggregateKey, Snapshot]) -> None:
        """See `EventLog.keep`."""
        async with borrowed(self._pool) as connection:
            columns = _columns_of(snapshots)
            await _unless_silent(connection, connection.execute(KEEP, *columns))

    async def _appended(self, connection: Connection, commits: Sequence[Commit]) -> Group:
        """The commits, with the outcomes that they have had."""
        known = Known.assumed(commits, self._signal.head, self._fence)
        for _ in range(OPTIMISTIC_ATTEMPTS):
            group = Group(commits, known, self._clock())
            if not group.rows:
                # Nothing to write: it only has to be true of the log at one moment.
                if known.is_confirmed:
                    return group
                known = await _unless_silent(connection, self._look(connection, group))
                continue
            found = await self._answer(group, connection, self._write(connection, group))
            if found is None:
                return group
            known = found
        return await self._appended_under_lock(connection, commits)

    async def _appended_under_lock(
        self, connection: Connection, commits: Sequence[Commit]
    ) -> Group:
        """The same in several round trips, during which nobody else commits."""

        async def begun() -> Group:
            await connection.execute(LOCK)
            assumed = Group(commits, Known.assumed(commits, Head(), 0), 0)
            group = Group(commits, await self._look(connection, assumed), self._clock())
            await self._write(connection, group)
            return group

        return await self._transacted(connection, begun)

    async def _copied(self, connection: Connection, copied: Copied, digest: bytes) -> None:
        async def begun() -> Copied:
            await connection.execute(LOCK)
            copied.follow(await self._look(connection, copied), digest)
            if copied.known.receipts:
                # The events of one command have come in two pieces.
                tenant_ids, command_ids = _columns(copied.known.receipts, 2)
                await connection.execute(TAKE_RECEIPTS, tenant_ids, command_ids)
            await self._write(connection, copied)
            return copied

        await self._transacted(connection, begun)

    async def _transacted(
        self, connection: Connection, work: Callable[[], Coroutine[Any, Any, BatchT]]
    ) -> BatchT:
        """Commits what the work has written."""
        transaction = connection.transaction()
        await _unless_silent(connection, transaction.start())
        try:
            batch = await _unless_silent(connection, work())
        except BaseException:
            if not connection.is_closed():
                await _unless_silent(connection, transaction.rollback())
            raise
        await self._answer(batch, connection, transaction.commit())
        return batch

    async def _look(self, connection: Connection, batch: Batch) -> Known:
        """What is true of the log at this moment."""
        row = await connection.fetchrow(LOOK, *_assumptions(batch, nothing_known=True))
        return self._known(batch, row, is_confirmed=True)

    async def _write(self, connection: Connection, batch: Batch) -> Known | None:
        """Writes all of it, or nothing: then what it was not based on; None: it is written."""
        row = await write(connection, batch, self._channel)
        return None if row["written"] else self._known(batch, row)

    def _known(self, batch: Batch, row: Any, *, is_confirmed: bool = False) -> Known:
        keys = list(batch.known.versions)
        moved = zip(row["moved"], row["versions"], strict=True)
        repeated = zip(row["repeated"], row["receipts"], strict=True)
        self._fence = row["fence"]
        return Known(
            Head(row["position"], row["digest"], row["time"]),
            row["fence"],
            {**batch.known.versions, **{keys[number - 1]: version for number, version in moved}},
            {
                **batch.known.receipts,
                **{
                    batch.commands[number - 1]: Receipt.of(RecordedEvent.FromString(record))
                    for number, record in repeated
                },
            },
            is_confirmed,
        )

    async def _answer(
        self, batch: Batch, connection: Connection, commit: Coroutine[Any, Any, Known | None]
    ) -> Known | None:
        """The answer to what may commit, which is never cancelled; None: it is written.

        Raises:
            Unavailable: the connection was lost; nothing was written, and nothing will be.
            OutcomeUnknown: it was lost, and the database cannot be asked what became of it.
        """
        try:
            return await _unless_silent(connection, commit)
        except LOST as error:
            logger.warning("commit_unanswered", position=batch.head.position, why=str(error))
        if not await self._resolve(batch):
            raise Unavailable(
                "LOG_UNAVAILABLE", "The connection to the database was lost; nothing was written"
            )
        return None

    async def _resolve(self, batch: Batch) -> bool:
        """Whether a batch was written, which is for ever then.

        Raises:
            OutcomeUnknown: the database cannot be asked.
        """
        try:
            async with asyncio.timeout(RESOLVE_S):
                while True:
                    try:
                        async with borrowed(self._pool) as connection:
                            asked = self._is_written(connection, batch)
                            return await _unless_silent(connection, asked)
                    except Unavailable:
                        await asyncio.sleep(RETRY_S)
        except TimeoutError as error:
            raise OutcomeUnknown(
                f"The database has not said for {RESOLVE_S:.0f} s whether it has position"
                f" {batch.head.position}"
            ) from error

    async def _is_written(self, connection: Connection, batch: Batch) -> bool:
        # What may still be on its way to the server finds another fence there, and writes nothing.
        # Besides, this commit comes after the one that is asked for: what answers for this one, a
        # standby for example, has that one too.
        self._fence = await connection.fetchval(MOVE_FENCE)
        digest = await connection.fetchval(DIGEST, batch.head.position)
        logger.warning("commit_resolved", is_written=digest == batch.head.digest)
        return bool(digest == batch.head.digest)

    def _move(self, head: Head) -> None:
        if head.position > self._signal.head.position:
            self._signal.move(head)


async def write(connection: Connection, batch: Batch, channel: str) -> Any:
    """Executes WRITE: a row that says whether it is written, and what is true if not."""
    events = _columns(
        (
            (row.position, *row.key, row.version, row.time, _id_of(row), row.digest, row.record)
            for row in batch.rows
        ),
        9,
    )
    base, head = batch.known.head, batch.head
    return await connection.fetchrow(
        WRITE,
        *_assumptions(batch),
        *(base.position, base.digest, batch.known.fence),
        *events,
        *_columns_of(batch.snapshots),
        *(head.position, head.digest, head.time, channel),
    )


def _columns_of(snapshots: Mapping[AggregateKey, Snapshot]) -> list[list[Any]]:
    rows = (
        (*key, snapshot.version, snapshot.schema, snapshot.state)
        for key, snapshot in snapshots.items()
    )
    return _columns(rows, 6)


def _id_of(row: Row) -> str | None:
    return None if row.command is None else row.command.command_id


async def _unless_silent(connection: Connection, work: Coroutine[Any, Any, T]) -> T:
    """What comes of some work on a connection, which is given up if that takes too long.

    Given up, not cancelled: that could end the server's wait for its standby, as a success.
    """
    working = asyncio.create_task(work)
    await asyncio.wait({working}, timeout=SILENCE_S)
    if not working.done():
        connection.terminate()
    return await working


def _assumptions(batch: Batch, *, nothing_known: bool = False) -> list[list[Any]]:
    """The parameters of CHECKS; if nothing is known, every aggregate's version is found."""
    versions = [-1 if nothing_known else each for each in batch.known.versions.values()]
    return [*_columns(batch.known.versions, 3), versions, *_columns(batch.commands, 2)]


def _columns(rows: Iterable[Iterable[Any]], count: int) -> list[list[Any]]:
    """Rows as an array for each column, of which there are so many also if there is no row."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]
