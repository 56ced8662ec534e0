"""Empty places for logs: schemas of one database, which are made and dropped in milliseconds."""

import asyncio
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
        self.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}")
        try:
            yield f"{self.url}{'&' if '?' in self.url else '?'}search_path={name}"
        finally:
            self.execute(f"DROP SCHEMA {name} CASCADE")

    def execute(self, statements: str) -> None:
        """Executes SQL on a connection of its own."""
        asyncio.run(execute(self.url, statements))


async def execute(url: str, statements: str) -> None:
    """Executes SQL on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()
