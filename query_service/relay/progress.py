"""How far a relay has come, and what it could not pass on: a SQLite file of its own."""

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

from shared.log.log import MICROSECONDS, Head
from shared.sqlite import Connection, FileLock, Readers, connect

SCHEMA = """
BEGIN;
CREATE TABLE checkpoint (position INTEGER NOT NULL, digest BLOB NOT NULL) STRICT;
CREATE TABLE parked (
    position INTEGER PRIMARY KEY,
    record BLOB NOT NULL,
    reason TEXT NOT NULL,
    parked_at INTEGER NOT NULL
) STRICT;
"""


class Parked(NamedTuple):
    """An event that was not passed on.

    Args:
        position: where it stands in the log.
        record: the event, serialized.
        reason: why it was not, a sentence.
        parked_at: when, in microseconds since 1970.
    """

    position: int
    record: bytes
    reason: str
    parked_at: int


def park(position: int, record: bytes, reason: str) -> Parked:
    """An event that is parked now."""
    return Parked(position, record, reason, round(time.time() * MICROSECONDS))


class Progress:
    """The file of one relay to one target. Made by `open`."""

    def __init__(
        self, lock: FileLock, connection: Connection, head: Head, parked_count: int
    ) -> None:
        self._lock = lock
        self._connection = connection
        self.head = head
        """Everything up to here was passed on, or parked."""
        self.parked_count = parked_count

    @classmethod
    async def open(cls, path: Path) -> "Progress":
        """Opens the file, or makes it.

        Raises:
            Unavailable: LOG_IN_USE: another relay holds it.
        """
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        try:
            connection = await connect(path)
            try:
                head, parked_count = await connection.run(_prepare)
            except BaseException:
                await connection.close()
                raise
        except BaseException:
            lock.release()
            raise
        return cls(lock, connection, head, parked_count)

    async def save(self, head: Head, parked: Parked | None) -> None:
        """Keeps how far it has come and what was parked on the way there, in one transaction.

        Raises:
            Exhausted, Unavailable: it may not be kept; to be tried again.
        """
        await self._connection.run(_save, head, parked)
        self.head = head
        self.parked_count += parked is not None

    async def close(self) -> None:
        """Waits for what runs and closes the file."""
        await self._connection.close()
        self._lock.release()


async def read_parked(path: Path) -> list[Parked]:
    """What is parked in a file, by position; a relay may be using it."""
    readers = await Readers.connect(path, count=1)
    try:
        return await readers.run(_read_parked)
    finally:
        await readers.close()


def _prepare(db: sqlite3.Connection) -> tuple[Head, int]:
    if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
        db.executescript(SCHEMA)
        db.execute("INSERT INTO checkpoint VALUES (?, ?)", (Head().position, Head().digest))
        db.execute("COMMIT")
    head = Head(*db.execute("SELECT position, digest FROM checkpoint").fetchone())
    return head, db.execute("SELECT count(*) FROM parked").fetchone()[0]


def _save(db: sqlite3.Connection, head: Head, parked: Parked | None) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("UPDATE checkpoint SET position = ?, digest = ?", (head.position, head.digest))
        if parked:
            # Of a commit that seemed to fail, and did not.
            db.execute("INSERT OR REPLACE INTO parked VALUES (?, ?, ?, ?)", parked)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _read_parked(db: sqlite3.Connection) -> list[Parked]:
    return [Parked(*row) for row in db.execute("SELECT * FROM parked ORDER BY position")]
