"""SQLite through aiosqlite, one hop into a connection's thread for a whole piece of work."""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar, TypeVarTuple

import aiosqlite
from google.protobuf.message import DecodeError

from shared.errors import DataLoss, Exhausted, TidemarkError, Unavailable

Synchronous = Literal["FULL", "NORMAL"]
"""FULL: a commit survives a power loss. NORMAL: the last ones may be undone by one, in order."""

BUSY_TIMEOUT_S = 5.0

CACHE_KIB = 16 << 10
"""A large transaction then does not spill into the WAL before it is committed."""

WAL_PAGES = 1000
"""After which the WAL is moved into the database, and written from its beginning. A commit that
makes it longer takes a tenth longer, since the file system then writes to its journal, too."""

ROWS_AT_ONCE = 256
"""In one statement; SQLite's own limit is on values: 32,766."""

SqlValue = int | str | bytes | None

UNREADABLE = (sqlite3.Error, TypeError, ValueError)
"""What reading a damaged database can raise: its values, and SQLite's words, can be anything."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Connection(aiosqlite.Connection):
    """A connection whose thread can be given a function of several statements.

    A hop into the thread and back costs about 100 µs, more than most statements. A connection that
    is not closed keeps the process from ending.
    """

    def join(self) -> None:
        """Waits for the end of the connection's thread."""
        self._thread.join()

    async def run(
        self, work: Callable[[sqlite3.Connection, *Arguments], T], *arguments: *Arguments
    ) -> T:
        """Runs the function in the connection's thread; cancelling does not stop it.

        Raises:
            TidemarkError: what SQLite's own error means to a caller.
        """
        try:
            return await self._execute(work, self._conn, *arguments)  # type: ignore[no-any-return, no-untyped-call]  # aiosqlite leaves it untyped
        except sqlite3.Error as error:
            raise translated(error) from error
        except (DecodeError, UnicodeDecodeError) as error:
            raise DataLoss("LOG_CORRUPT", "What is stored is not what was written") from error


async def connect(path: Path, *, synchronous: Synchronous = "FULL") -> Connection:
    """The connection that writes, and the only one that moves the WAL into the database.

    SQLite before 3.51.3 can corrupt a WAL that another connection resets.
    """
    return await _connect(
        path,
        f"PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous};"
        f" PRAGMA cache_size=-{CACHE_KIB}; PRAGMA wal_autocheckpoint={WAL_PAGES}",
    )


def make_durable(db: sqlite3.Connection) -> None:
    """Has the disk take what is in the WAL, before anybody is shown it.

    A process that was killed, or whose fsync failed, leaves there what it wrote and never synced.
    SQLite reads it as committed; a power loss could still undo it. To sync the WAL once more would
    not be enough: what could not be written before counts as written since (Rebello et al. 2020,
    "Can applications recover from fsync failures?"). So it is moved into the database, as far as
    there is room for it, and others who read leave it alone.
    """
    try:
        _, frames, moved = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_FULL:
            raise
    else:
        if moved == frames:
            return
    path = db.execute("PRAGMA database_list").fetchone()[2]
    with open(f"{path}-wal", "rb") as wal:  # noqa: PTH123  # SQLite's own name for it
        os.fsync(wal.fileno())


class Readers:
    """A bounded pool of connections that only read; whoever comes first is served first."""

    def __init__(self, connections: list[Connection]) -> None:
        self._count = len(connections)
        self._free = connections
        # A queue would let a later one take what an earlier one was woken for.
        self._turns = asyncio.Semaphore(len(connections))

    @classmethod
    async def connect(cls, path: Path, count: int = 4) -> "Readers":
        """Opens them; the database has to be there."""
        setup = "PRAGMA query_only=1; PRAGMA wal_autocheckpoint=0"
        async with AsyncExitStack() as opened:
            connections = []
            for _ in range(count):
                connection = await _connect(path, setup)
                opened.push_async_callback(connection.close)
                connections.append(connection)
            opened.pop_all()
        return cls(connections)

    async def run(
        self, work: Callable[[sqlite3.Connection, *Arguments], T], *arguments: *Arguments
    ) -> T:
        """Runs the function in the thread of a free connection, in one read transaction."""
        async with self._turns:
            connection = self._free.pop()
            try:
                return await connection.run(_in_transaction, work, *arguments)
            finally:
                self._free.append(connection)

    async def close(self) -> None:
        """Waits for whoever has one or waits for one, and closes all."""
        for _ in range(self._count):
            await self._turns.acquire()
            await self._free.pop().close()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has the operator told which file it is that is damaged.

    Raises:
        DataLoss: what was raised in the block, with the path.
    """
    try:
        yield
    except DataLoss as error:
        raise DataLoss(error.reason, f"{path}: {error.message}") from error


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """A database as it is now, for the length of a block, whether a service runs on it or not.

    It takes no lock that a writer waits for, and leaves the WAL as it is, also when it is the last
    to close: for that, SQLite needs a connection that may write. Meanwhile what is written stays in
    the WAL. It has to be able to make `-wal` and `-shm` beside the file.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(
        sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    ) as db:
        db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        db.execute("BEGIN")
        # With the first read the transaction begins.
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        yield db


def temporary() -> sqlite3.Connection:
    """An empty database of this process alone: what is much is on disk, until it is closed.

    Nothing in it can be rolled back.
    """
    db = sqlite3.connect("", isolation_level=None)
    db.executescript(f"PRAGMA journal_mode=OFF; PRAGMA cache_size=-{CACHE_KIB}")
    return db


class FileLock:
    """Held by at most one process, and let go by the kernel when that process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise Unavailable("LOG_IN_USE", f"Another process holds {path}") from error

    def release(self) -> None:
        """Lets go of it."""
        os.close(self._file)


def insert(
    db: sqlite3.Connection,
    table: str,
    rows: Sequence[tuple[SqlValue, ...]],
    on_conflict: str = "",
) -> None:
    """Inserts rows in few steps.

    At each step Python lets go of its interpreter lock, and with a busy event loop it then has to
    wait for it: `executemany` does so for every row.
    """
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        row = f"({', '.join('?' * len(some[0]))})"
        places = ", ".join([row] * len(some))
        statement = f"INSERT INTO {table} VALUES {places} {on_conflict}"  # noqa: S608  # ours
        db.execute(statement, list(chain.from_iterable(some)))


def damage_in(error: Exception) -> str:
    """What one of UNREADABLE says of a database that was only read.

    Raises:
        sqlite3.Error: the same, if it is that temporary files have no room.
    """
    if not isinstance(error, sqlite3.Error):
        return "a value is not of the kind that it has to be"
    if primary_code(error) == sqlite3.SQLITE_FULL:
        raise error
    return str(error)


def translated(error: sqlite3.Error | UnicodeDecodeError) -> TidemarkError:
    """What an error of SQLite means to a caller; one that is no text comes of a damaged schema."""
    if isinstance(error, UnicodeDecodeError):
        return DataLoss("LOG_CORRUPT", "The database is damaged")
    match primary_code(error):
        case sqlite3.SQLITE_FULL:
            return Exhausted("DISK_FULL", "The disk is full; nothing was written")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return DataLoss("LOG_CORRUPT", "The database is damaged")
        case _:
            return Unavailable("LOG_UNAVAILABLE", "The database does not answer")


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, for example `sqlite3.SQLITE_FULL`."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


async def _connect(path: Path, setup: str) -> Connection:
    def open_connection() -> sqlite3.Connection:
        # Transactions are begun and ended by the statements that say so.
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        connection.executescript(setup)
        return connection

    connection = Connection(open_connection, iter_chunk_size=64)
    try:
        await connection
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # Its thread ends by itself, but has to before the event loop does.
        await asyncio.to_thread(connection.join)
        raise translated(error) from error
    return connection


def _in_transaction(
    connection: sqlite3.Connection,
    work: Callable[[sqlite3.Connection, *Arguments], T],
    *arguments: *Arguments,
) -> T:
    connection.execute("BEGIN")
    try:
        return work(connection, *arguments)
    finally:
        connection.execute("ROLLBACK")
