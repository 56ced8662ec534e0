"""Keys in one SQLite file, of one process."""

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from command_service.keys.store import MAX_PAGE_KEYS, KeyCheckpoint
from shared.errors import DataLoss, Unavailable
from shared.log.log import AggregateKey, OutcomeUnknown
from shared.log.sqlite.writing import commit, roll_back
from shared.personal.sealing import DESTROYED, KEY_BYTES, Keys, new_key
from shared.sqlite import (
    Connection,
    FileLock,
    SqlValue,
    connect,
    insert,
    make_durable,
    naming,
    primary_code,
)

# A key is overwritten where it is: rows are only added, at the end, and change neither their size
# nor their place, so that no page ever has what is left of another row.
SCHEMA = """
CREATE TABLE keys (
    number INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    key BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX keys_by_aggregate ON keys (aggregate_id, aggregate_type, tenant_id);
CREATE TABLE checkpoint (position INTEGER NOT NULL, digest BLOB NOT NULL) STRICT;
"""
SCHEMA_VERSION = 1

OVERWRITTEN = bytes(KEY_BYTES)
"""What is in the place of a key that was destroyed."""

AGGREGATE = "aggregate_id = ? AND aggregate_type = ? AND tenant_id = ?"


class SqliteKeys:
    """See `command_service.keys.store.KeyStore`. Made by `open`."""

    def __init__(self, lock: FileLock, connection: Connection) -> None:
        self._lock = lock
        # One for all: while SQLite has only one, nobody reads what is about to be overwritten.
        self._connection = connection

    @classmethod
    async def open(cls, path: Path) -> "SqliteKeys":
        """Opens the file, and makes it if it is not there.

        Raises:
            Unavailable: LOG_IN_USE: another process has it open.
            DataLoss: LOG_CORRUPT: it is damaged, or of another version than this program.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(path.name + ".lock"))
        try:
            # What SQLite makes beside it is as private.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            with naming(path):
                connection = await connect(path)
                try:
                    await connection.run(_prepare)
                except BaseException:
                    await connection.close()
                    raise
        except BaseException:
            lock.release()
            raise
        return cls(lock, connection)

    async def find(self, aggregates: Collection[AggregateKey]) -> Keys:
        """See `KeyStore.find`."""
        return await self._connection.run(_find, aggregates)

    async def make(self, aggregates: Collection[AggregateKey]) -> Keys:
        """See `KeyStore.make`."""
        return await self._connection.run(_make, aggregates)

    async def destroy(self, aggregates: Collection[AggregateKey]) -> None:
        """See `KeyStore.destroy`.

        Raises:
            Unavailable: KEYS_IN_USE: another program reads the file, which keeps the WAL from being
                emptied.
        """
        await self._connection.run(_destroy, aggregates)

    async def checkpoint(self) -> KeyCheckpoint:
        """See `KeyStore.checkpoint`."""
        return await self._connection.run(_checkpoint)

    async def reach(self, checkpoint: KeyCheckpoint) -> None:
        """See `KeyStore.reach`."""
        await self._connection.run(_reach, checkpoint)

    async def page(self, after: AggregateKey | None) -> Keys:
        """See `KeyStore.page`."""
        return await self._connection.run(_page, after)

    async def keep(self, keys: Keys) -> None:
        """See `KeyStore.keep`."""
        await self._connection.run(_keep, keys)

    async def close(self) -> None:
        """See `KeyStore.close`."""
        await self._connection.close()
        self._lock.release()


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA secure_delete=ON")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        with _transaction(db):
            for statement in SCHEMA.split(";"):
                db.execute(statement)
            db.execute("INSERT INTO checkpoint VALUES (0, zeroblob(32))")
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    elif version != SCHEMA_VERSION:
        raise DataLoss(
            "LOG_CORRUPT", f"It has version {version}; this program knows {SCHEMA_VERSION}"
        )
    make_durable(db)
    # A process that was killed may have left there what it had overwritten.
    try:
        _empty_wal(db)
    except sqlite3.OperationalError as error:
        # There is no room now; nothing is called destroyed before there is.
        if primary_code(error) != sqlite3.SQLITE_FULL:
            raise


def _find(
    db: sqlite3.Connection, aggregates: Collection[AggregateKey]
) -> dict[AggregateKey, bytes]:
    keys = {}
    for aggregate in aggregates:
        found = db.execute(f"SELECT key FROM keys WHERE {AGGREGATE}", _by(aggregate)).fetchone()  # noqa: S608  # ours
        if found is not None:
            keys[aggregate] = DESTROYED if found[0] == OVERWRITTEN else bytes(found[0])
    return keys


def _make(db: sqlite3.Connection, aggregates: Collection[AggregateKey]) -> Keys:
    keys = _find(db, aggregates)
    made = {each: new_key() for each in aggregates if each not in keys}
    if made:
        with _transaction(db):
            _add(db, made.items())
    return keys | made


def _destroy(db: sqlite3.Connection, aggregates: Collection[AggregateKey]) -> None:
    keys = _find(db, aggregates)
    there = [each for each, key in keys.items() if key != DESTROYED]
    never = [each for each in aggregates if each not in keys]
    if there or never:
        with _transaction(db):
            _overwrite(db, there)
            _add(db, [(each, OVERWRITTEN) for each in never])
    _empty_wal(db)


def _checkpoint(db: sqlite3.Connection) -> KeyCheckpoint:
    return KeyCheckpoint(*db.execute("SELECT position, digest FROM checkpoint").fetchone())


def _reach(db: sqlite3.Connection, checkpoint: KeyCheckpoint) -> None:
    with _transaction(db):
        db.execute(
            "UPDATE checkpoint SET position = ?, digest = ?",
            (checkpoint.position, checkpoint.digest),
        )


def _page(db: sqlite3.Connection, after: AggregateKey | None) -> Keys:
    order = "aggregate_id, aggregate_type, tenant_id"
    place = _by(after) if after else ("", "", "")
    rows = db.execute(
        f"SELECT tenant_id, aggregate_type, aggregate_id, key FROM keys"  # noqa: S608  # ours
        f" WHERE ({order}) > (?, ?, ?) ORDER BY {order} LIMIT {MAX_PAGE_KEYS}",
        place,
    )
    return {AggregateKey(*names): DESTROYED if key == OVERWRITTEN else key for *names, key in rows}


def _keep(db: sqlite3.Connection, keys: Keys) -> None:
    own = _find(db, keys.keys())
    for aggregate, key in keys.items():
        if DESTROYED not in {key, own.get(aggregate, key)} and own.get(aggregate, key) != key:
            raise DataLoss("KEYS_DIVERGED", f"Another key of {aggregate} is there already")
    with _transaction(db):
        _add(db, [(each, key or OVERWRITTEN) for each, key in keys.items() if each not in own])
        _overwrite(db, [each for each, key in keys.items() if key == DESTROYED and own.get(each)])
    _empty_wal(db)


def _add(db: sqlite3.Connection, keys: Iterable[tuple[AggregateKey, bytes]]) -> None:
    rows: list[tuple[SqlValue, ...]] = [(None, *aggregate, key) for aggregate, key in keys]
    insert(db, "keys", rows)


def _overwrite(db: sqlite3.Connection, aggregates: Iterable[AggregateKey]) -> None:
    for each in aggregates:
        db.execute(f"UPDATE keys SET key = ? WHERE {AGGREGATE}", (OVERWRITTEN, *_by(each)))  # noqa: S608  # ours


def _empty_wal(db: sqlite3.Connection) -> None:
    """Moves what is in the WAL into the database, and has nothing left there.

    Raises:
        Unavailable: KEYS_IN_USE.
        shared.log.log.OutcomeUnknown: the disk fails.
    """
    try:
        is_busy, *_ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        if primary_code(error) == sqlite3.SQLITE_IOERR:
            raise OutcomeUnknown(f"The keys' WAL cannot be emptied: {error}") from error
        raise
    if is_busy:
        raise Unavailable("KEYS_IN_USE", "Another program reads the key store")


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Committed, with what the block has written, on leaving.

    Raises:
        shared.log.log.OutcomeUnknown: it may or may not have been written.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        roll_back(db)
        raise
    commit(db)


def _by(aggregate: AggregateKey) -> tuple[str, str, str]:
    return aggregate.aggregate_id, aggregate.aggregate_type, aggregate.tenant_id
