"""A PostgreSQL of a run's own that keeps its log, behind a proxy of its own."""

import os
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.postgres import PostgresServer, postgres_server
from tests.postgres.databases import execute
from tests.torture.machine import small_tmpfs
from tests.torture.proxy import Proxy


@dataclass(frozen=True)
class Database:
    """What the command services of a run share.

    Args:
        server: the PostgreSQL.
        link: what they connect to.
        disk: where the log's tables are, if they have a disk of their own.
    """

    server: PostgresServer
    link: Proxy
    disk: Path | None = None

    @property
    def url(self) -> str:
        """What the services are given."""
        return self.server.url.replace(f"127.0.0.1:{self.server.port}", self.link.address)


@asynccontextmanager
async def own_server() -> AsyncIterator[Database]:
    """One for the length of a block."""
    with postgres_server() as server:
        async with Proxy.to(f"127.0.0.1:{server.port}") as link:
            yield Database(server, link)


@asynccontextmanager
async def server_with_small_disk() -> AsyncIterator[Database]:
    """The same, with room for little in the log's tables."""
    async with own_server() as database, small_tmpfs(database.server.folder) as disk:
        nobody = pwd.getpwnam("nobody")
        os.chown(disk, nobody.pw_uid, nobody.pw_gid)
        await execute(database.server.url, f"CREATE TABLESPACE small LOCATION '{disk}'")
        await execute(database.server.url, "ALTER DATABASE postgres SET default_tablespace = small")
        yield Database(database.server, database.link, disk)
        # It is unmounted before the server ends.
        database.server.stop()
