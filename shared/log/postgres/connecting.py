"""Connections to PostgreSQL: bounded in number and in time, and none to a server that forgets."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

from shared.errors import DataLoss, Exhausted, TidemarkError, Unavailable
from shared.log.log import Head
from shared.outage import QUIET_S, Outage

# Generic for the type checker alone.
Connection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"
Preparation = Callable[[Connection], Awaitable[None]]
"""What a new connection is put through before it is used."""

DIGEST = "SELECT digest FROM log_events WHERE position = $1"

CONNECT_S = 3.0
"""For one host: one that has vanished must not keep the next from being tried."""

READY_S = 6.0
"""For a new connection to be shown that the server can commit."""

ANSWER_S = 6.0
"""For a statement that only reads, when the server does not even say that it took too long."""

CLOSE_S = 2.0

SETTINGS = {
    "application_name": "tidemark",
    "default_transaction_isolation": "read committed",
    # A statement of ours takes milliseconds; the time of a commit, and of its wait for a standby,
    # does not count.
    "statement_timeout": "5s",
    "lock_timeout": "4s",
    # Whoever holds the head's lock and stands still must not stop the others for longer.
    "idle_in_transaction_session_timeout": "5s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    # Every look-up has its index. A plan that was made while the table was small, and kept, would
    # read all of it.
    "enable_seqscan": "off",
    "jit": "off",
}

LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
"""The connection is gone, and with it the answer."""

FAILURES = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError)
"""Whatever a call to the database can fail with; a TimeoutError is an OSError. It is an internal
error of the client that a host is not what the URL's target_session_attrs asks for."""

logger = structlog.get_logger(__name__)


class _Connection(asyncpg.Connection):
    """One whose end is no failure: a pool ends outdated ones in tasks that nobody waits for."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  # asyncpg's
        """Says goodbye; one that does not answer in time is cut off."""
        try:
            await super().close(timeout=timeout)
        except FAILURES as error:
            logger.debug("connection_cut_off", why=str(error))


@dataclass(frozen=True)
class Pool:
    """Some of a process's connections. Made by `Database.pool`.

    Args:
        connections: these.
        database: where they lead.
    """

    connections: "asyncpg.Pool[Any]"
    database: "Database"


class Database:
    """Where the log is.

    Args:
        url: libpq's, with one host or several: they are tried in turn.
        allow_data_loss: whether a server is taken that can lose what it has acknowledged.
    """

    def __init__(self, url: str, *, allow_data_loss: bool = False) -> None:
        self._urls = _one_for_each_host(url)
        self._allow_data_loss = allow_data_loss
        self._pools: list[Pool] = []
        self._away = Outage("database_away", quiet_s=QUIET_S)
        self.failing = Outage("database_failed", quiet_s=QUIET_S)
        """Statements on connections to it."""

    async def connect(self, prepare: Preparation, answer_s: float | None = ANSWER_S) -> Any:
        """A connection to the first host that has what is asked for.

        Args:
            prepare: a host where it fails is not taken.
            answer_s: the longest that a statement may take, or it is cancelled; None: any time.

        Raises:
            TidemarkError: there is none.
        """
        failures: list[Exception] = []
        for url in self._urls:
            try:
                connection = await asyncpg.connect(
                    url,
                    timeout=CONNECT_S,
                    command_timeout=answer_s,
                    connection_class=_Connection,
                    server_settings=SETTINGS,
                )
                try:
                    async with asyncio.timeout(READY_S):
                        await self._check(connection)
                        await prepare(connection)
                except BaseException:
                    connection.terminate()
                    raise
            except (*FAILURES, TidemarkError) as error:
                failures.append(error)
            else:
                self._away.succeeded()
                return connection
        reasons = [f"{type(failure).__name__}: {failure}" for failure in failures]
        self._away.failed(
            type(failures[-1]).__name__, level=logging.WARNING, why="; ".join(reasons)
        )
        for failure in failures:
            # What only the operator can change.
            if isinstance(failure, TidemarkError):
                raise failure
        raise Unavailable("LOG_UNAVAILABLE", "The database does not answer") from failures[-1]

    async def pool(self, size: int, prepare: Preparation, answer_s: float | None) -> Pool:
        """Up to so many connections; none is made before it is needed."""

        async def connect(*_: object, **__: object) -> Any:
            return await self.connect(prepare, answer_s)

        connections = await asyncpg.create_pool(
            min_size=0, max_size=size, connect=connect, reset=_keep
        )
        self._pools.append(Pool(connections, self))
        return self._pools[-1]

    async def renew(self) -> None:
        """Has every pool make new connections.

        When one has lost the server, the others of its time have lost it too, and it is no use to
        wait for each of them.
        """
        for pool in self._pools:
            with suppress(asyncpg.InterfaceError):
                await pool.connections.expire_connections()

    async def _check(self, connection: Connection) -> None:
        """Refuses a server that can lose what it has acknowledged."""
        if self._allow_data_loss:
            return
        row = await connection.fetchrow(
            "SELECT current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('synchronous_standby_names')"
        )
        assert row is not None  # noqa: S101  # it is a SELECT without a FROM
        fsync, synchronous_commit, standbys = row
        if fsync == "off":
            raise _forgets("fsync=off")
        if synchronous_commit == "off" or (synchronous_commit == "local" and standbys):
            raise _forgets(f"synchronous_commit={synchronous_commit}")


async def settle(connection: Connection, known: Head) -> None:
    """Commits, without changing anything, before anybody is shown what a new connection sees.

    A server that was killed shows, once it has recovered, commits of which its standby may not have
    heard. Once this one is acknowledged, so are they: a receipt that is read here is a promise like
    any other. And a server that cannot commit, such as a standby, is not taken at all.

    Args:
        connection: the new one.
        known: the head of the log as this process knows it.

    Raises:
        DataLoss: LOG_DIVERGED: the log there does not have that head in it.
    """
    await connection.execute("UPDATE log_head SET fence = fence")
    if known.position and known.digest != await connection.fetchval(DIGEST, known.position):
        raise DataLoss(
            "LOG_DIVERGED",
            f"The database's log is not the one that was read up to {known.position};"
            " what this service knows of that one ends with a restart",
        )


@asynccontextmanager
async def borrowed(pool: Pool, within_s: float = 2 * READY_S) -> AsyncIterator[Connection]:
    """A connection of the pool.

    Raises:
        TidemarkError: there is none in time, or what the database's own error means to a caller.
    """
    try:
        connection = await pool.connections.acquire(timeout=within_s)
        try:
            yield connection
            pool.database.failing.succeeded()
        except (*LOST, asyncpg.ReadOnlySQLTransactionError):
            with suppress(asyncpg.InterfaceError):
                connection.terminate()
            await pool.database.renew()
            raise
        finally:
            await _give_back(pool, connection)
    except FAILURES as error:
        reason = type(error).__name__
        pool.database.failing.failed(reason, level=logging.WARNING, why=str(error))
        raise translated(error) from error


async def _give_back(pool: Pool, connection: Any) -> None:
    try:
        await pool.connections.release(connection)
    except FAILURES as error:
        # It was lost in this very moment; what it was borrowed for has had its answer.
        logger.debug("connection_not_given_back", why=str(error))


def translated(error: BaseException) -> TidemarkError:
    """What an error of the database means to a caller."""
    match error:
        case asyncpg.DiskFullError():
            return Exhausted("DISK_FULL", "The database's disk is full; nothing was written")
        case asyncpg.DataCorruptedError() | asyncpg.IndexCorruptedError():
            return DataLoss("LOG_CORRUPT", "The database is damaged")
        case _:
            return Unavailable("LOG_UNAVAILABLE", "The database does not answer")


async def close(pool: Pool) -> None:
    """Closes a pool; whoever has a connection still is not waited for without end."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await pool.connections.close()
    except TimeoutError:
        logger.warning("connections_cut_off", after_s=CLOSE_S)


def is_well_formed(url: str) -> bool:
    """Whether it names a host, or several, with ports that there can be."""
    try:
        for each in _one_for_each_host(url):
            _ = urlsplit(each).port
    except ValueError:
        return False
    return True


def without_password(url: str) -> str:
    """The URL, well formed or not, as it may be shown."""
    # First, since a password that should have been escaped can have a question mark in it.
    return re.sub("//.*@", "//", url).partition("?")[0]


def _one_for_each_host(url: str) -> Sequence[str]:
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=user + at + host)) for host in hosts.split(",")]


def _forgets(setting: str) -> Unavailable:
    return Unavailable(
        "LOG_NOT_DURABLE", f"The server can lose what it has acknowledged: it has {setting}"
    )


async def _keep(_: Connection) -> None:
    """Nothing that this program does leaves a trace on a connection."""
