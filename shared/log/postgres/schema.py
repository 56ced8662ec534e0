"""The tables of the log, their versions, and what is checked before they are used."""

from collections.abc import Sequence

import asyncpg

from shared.errors import DataLoss
from shared.log.log import EMPTY_DIGEST, Head, chain, time_of
from shared.log.postgres.connecting import Connection
from tidemark.v1.event_pb2 import RecordedEvent

# The log is `log_events`, a row for each event, and `log_head`, one row that every commit locks,
# advances, and holds to its end. A `command_id` is on the last event of a command that may come
# again, and is its receipt. Other programs see these tables; only this one may write to them.
MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE log_head (
        position bigint NOT NULL,
        digest bytea NOT NULL,
        time bigint NOT NULL,
        fence bigint NOT NULL
    );
    CREATE TABLE log_events (
        position bigint PRIMARY KEY,
        tenant_id text COLLATE "C" NOT NULL,
        aggregate_type text COLLATE "C" NOT NULL,
        aggregate_id text COLLATE "C" NOT NULL,
        version bigint NOT NULL,
        time bigint NOT NULL,
        command_id uuid,
        digest bytea NOT NULL,
        record bytea NOT NULL,
        UNIQUE (aggregate_id, aggregate_type, tenant_id, version)
    );
    CREATE UNIQUE INDEX log_events_command_id ON log_events (command_id, tenant_id)
        WHERE command_id IS NOT NULL;
    CREATE INDEX log_events_time ON log_events (time);
    CREATE TABLE log_snapshots (
        tenant_id text COLLATE "C" NOT NULL,
        aggregate_type text COLLATE "C" NOT NULL,
        aggregate_id text COLLATE "C" NOT NULL,
        version bigint NOT NULL,
        schema bytea NOT NULL,
        state bytea NOT NULL,
        PRIMARY KEY (aggregate_id, aggregate_type, tenant_id)
    );
    INSERT INTO log_head VALUES (0, decode(repeat('00', 32), 'hex'), 0, 0);
    """,
)
"""Each leads to the next version; what has been released is never changed."""

HEAD = "SELECT position, digest, time FROM log_head"

ATTEMPTS = 5


async def migrate(connection: Connection) -> None:
    """Brings the tables to this program's version, whoever else tries to at the same time.

    Raises:
        DataLoss: LOG_CORRUPT: they are of a later version.
    """
    await _make_version_table(connection)
    async with connection.transaction():
        # Whoever comes second waits here, and then finds everything done.
        await connection.execute("LOCK TABLE log_schema IN ACCESS EXCLUSIVE MODE")
        version = await connection.fetchval("SELECT max(version) FROM log_schema") or 0
        if version > len(MIGRATIONS):
            raise DataLoss(
                "LOG_CORRUPT",
                f"The log has schema {version}; this program knows {len(MIGRATIONS)}",
            )
        for number, migration in enumerate(MIGRATIONS[version:], version + 1):
            await connection.execute(migration)
            await connection.execute("INSERT INTO log_schema VALUES ($1)", number)


async def _make_version_table(connection: Connection) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS log_schema (version integer PRIMARY KEY)"
            )
        except (
            asyncpg.UniqueViolationError,
            asyncpg.DuplicateTableError,
            asyncpg.DuplicateObjectError,
        ):
            # Somebody made it between PostgreSQL's look and its attempt.
            if attempt == ATTEMPTS:
                raise
        else:
            return


async def verify(connection: Connection) -> None:
    """Checks that the log ends in the event that its head says.

    Raises:
        DataLoss: LOG_CORRUPT.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        head = Head(*await connection.fetchrow(HEAD) or ())
        newest = await connection.fetch(
            "SELECT position, digest, record FROM log_events ORDER BY position DESC LIMIT 2"
        )
    reached = Head()
    if newest:
        last = newest[0]
        digest = chain(newest[1]["digest"] if len(newest) > 1 else EMPTY_DIGEST, last["record"])
        if digest != last["digest"]:
            raise DataLoss("LOG_CORRUPT", "The last event is not what was written")
        reached = Head(last["position"], digest, time_of(RecordedEvent.FromString(last["record"])))
    if head != reached:
        raise DataLoss(
            "LOG_CORRUPT", f"The log ends at position {reached.position}, its head says otherwise"
        )
