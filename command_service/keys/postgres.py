"""Keys in PostgreSQL, for any number of command services."""

from collections.abc import Collection, Iterable

import asyncpg

from command_service.keys.store import MAX_PAGE_KEYS, KeyCheckpoint
from shared.errors import DataLoss
from shared.log.log import AggregateKey
from shared.log.postgres.connecting import (
    CLOSE_S,
    Connection,
    Database,
    Pool,
    borrowed,
    close,
)
from shared.log.postgres.schema import ATTEMPTS
from shared.personal.sealing import DESTROYED, Keys, new_key

CONNECTIONS = 2

ANSWER_S = 2.0
"""For a statement. The log's database may have had to be waited for before: when both are silent,
a command is kept waiting for one after the other."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS personal_keys (
    tenant_id text COLLATE "C" NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    PRIMARY KEY (aggregate_id, aggregate_type, tenant_id)
);
CREATE TABLE IF NOT EXISTS personal_keys_checkpoint (
    name text PRIMARY KEY,
    position bigint NOT NULL,
    digest bytea NOT NULL
);
INSERT INTO personal_keys_checkpoint VALUES ('log', 0, decode(repeat('00', 32), 'hex'))
    ON CONFLICT DO NOTHING;
"""


ADD = (
    "INSERT INTO personal_keys (tenant_id, aggregate_type, aggregate_id, key)"
    " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[])"
    " ON CONFLICT (aggregate_id, aggregate_type, tenant_id) DO "
)
UNLESS_THERE = "NOTHING"
OVERWRITE = "UPDATE SET key = excluded.key WHERE personal_keys.key <> excluded.key"


class PostgresKeys:
    """See `command_service.keys.store.KeyStore`. Made by `open`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, url: str, *, allow_data_loss: bool = False) -> "PostgresKeys":
        """Connects, and makes the tables; see `shared.log.postgres.PostgresLog.open`."""
        database = Database(url, allow_data_loss=allow_data_loss)
        connection = await database.connect(_make_tables)
        await connection.close(timeout=CLOSE_S)
        return cls(await database.pool(CONNECTIONS, _settle, ANSWER_S))

    async def find(self, aggregates: Collection[AggregateKey]) -> Keys:
        """See `KeyStore.find`."""
        async with borrowed(self._pool) as connection:
            return await _find(connection, aggregates)

    async def make(self, aggregates: Collection[AggregateKey]) -> Keys:
        """See `KeyStore.make`."""
        async with borrowed(self._pool) as connection:
            found = await _find(connection, aggregates)
            missing = {each: new_key() for each in aggregates if each not in found}
            if not missing:
                return found
            # Where another one was faster, its key counts.
            await _add(connection, missing.items(), UNLESS_THERE)
            return await _find(connection, aggregates)

    async def destroy(self, aggregates: Collection[AggregateKey]) -> None:
        """See `KeyStore.destroy`."""
        async with borrowed(self._pool) as connection:
            await _add(connection, [(each, DESTROYED) for each in aggregates], OVERWRITE)

    async def checkpoint(self) -> KeyCheckpoint:
        """See `KeyStore.checkpoint`."""
        async with borrowed(self._pool) as connection:
            row = await connection.fetchrow("SELECT position, digest FROM personal_keys_checkpoint")
        return KeyCheckpoint(*row or ())

    async def reach(self, checkpoint: KeyCheckpoint) -> None:
        """See `KeyStore.reach`."""
        async with borrowed(self._pool) as connection:
            await connection.execute(
                "UPDATE personal_keys_checkpoint SET position = $1, digest = $2",
                checkpoint.position,
                checkpoint.digest,
            )

    async def page(self, after: AggregateKey | None) -> Keys:
        """See `KeyStore.page`."""
        place = ("", "", "") if after is None else (after[2], after[1], after[0])
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT tenant_id, aggregate_type, aggregate_id, key FROM personal_keys"
                " WHERE (aggregate_id, aggregate_type, tenant_id) > ($1, $2, $3)"
                " ORDER BY aggregate_id, aggregate_type, tenant_id LIMIT $4",
                *place,
                MAX_PAGE_KEYS,
            )
        return {AggregateKey(*names): key for *names, key in rows}

    async def keep(self, keys: Keys) -> None:
        """See `KeyStore.keep`."""
        async with borrowed(self._pool) as connection, connection.transaction():
            await _add(connection, keys.items(), UNLESS_THERE)
            own = await _find(connection, keys.keys())
            for aggregate, key in keys.items():
                if DESTROYED not in {key, own[aggregate]} and own[aggregate] != key:
                    raise DataLoss("KEYS_DIVERGED", f"Another key of {aggregate} is there already")
            destroyed = [(each, key) for each, key in keys.items() if key == DESTROYED]
            await _add(connection, destroyed, OVERWRITE)

    async def close(self) -> None:
        """See `KeyStore.close`."""
        await close(self._pool)


async def _make_tables(connection: Connection) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await connection.execute(SCHEMA)
        except (
            asyncpg.UniqueViolationError,
            asyncpg.DuplicateTableError,
            asyncpg.DuplicateObjectError,
        ):
            # Somebody made them between PostgreSQL's look and its attempt.
            if attempt == ATTEMPTS:
                raise
        else:
            break
    await _settle(connection)


async def _settle(connection: Connection) -> None:
    """Commits before anything is read: see `shared.log.postgres.connecting.settle`."""
    await connection.execute("UPDATE personal_keys_checkpoint SET name = name")


async def _find(
    connection: Connection, aggregates: Collection[AggregateKey]
) -> dict[AggregateKey, bytes]:
    rows = await connection.fetch(
        "SELECT tenant_id, aggregate_type, aggregate_id, key FROM personal_keys"
        " JOIN unnest($1::text[], $2::text[], $3::text[])"
        " AS named (tenant_id, aggregate_type, aggregate_id)"
        " USING (tenant_id, aggregate_type, aggregate_id)",
        *_columns(aggregates),
    )
    return {AggregateKey(*names): key for *names, key in rows}


async def _add(
    connection: Connection, keys: Iterable[tuple[AggregateKey, bytes]], on_conflict: str
) -> None:
    """Adds rows, each aggregate at most once, in an order in which two of these cannot deadlock."""
    rows = sorted(keys)
    await connection.execute(
        ADD + on_conflict,
        *_columns([aggregate for aggregate, _ in rows]),
        [key for _, key in rows],
    )


def _columns(aggregates: Collection[AggregateKey]) -> tuple[list[str], list[str], list[str]]:
    tenants, types, ids = ([each[place] for each in aggregates] for place in range(3))
    return tenants, types, ids
