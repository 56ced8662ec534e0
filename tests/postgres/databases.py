"""Empty places for logs: schemas of one database, which are made and dropped in milliseconds."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import asyncpg


class Databases:
    """Makes them.

    Args:
        url: of a database in which schemas may be made.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._numbers = count(1)

    @contextmanager
    def empty(self) -> Iterator[str]:
        """The URL of one, which is gone afterwards, whoever still uses it."""
        name = f"tidemark_test_{next(self._numbers)}"
        for schema in (name, f"{name}_keys"):
            self.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")
        try:
            yield f"{self.url}{'&' if '?' in self.url else '?'}search_path={name}"
        finally:
            self.execute(f"DROP SCHEMA {name}, {name}_keys CASCADE")

    def execute(self, statements: str) -> None:
        """Executes SQL on a connection of its own."""
        asyncio.run(execute(self.url, statements))


def keys_of(log: str) -> str:
    """The URL of the keys that belong to such a place, or to a server's own database."""
    if "search_path" in log:
        return re.sub(r"search_path=(\w+)", r"search_path=\1_keys", log)
    return re.sub(r"/postgres(?=$|\?)", "/keys", log)


def log_options(log: str) -> tuple[str, ...]:
    """What a command service is told of its log, wherever that is."""
    keys = ("--keys", keys_of(log)) if log.startswith("postgresql") else ()
    return ("--log", log, *keys)


async def execute(url: str, statements: str) -> None:
    """Executes SQL on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()
