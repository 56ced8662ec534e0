"""What tests all over the place are given, and the order in which their files are begun."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.postgres import postgres_server
from tests.postgres.databases import Databases

GIVEN_URL = "TIDEMARK_TEST_POSTGRES_URL"
"""Of a database in which the tests may make schemas, instead of a server of their own."""

LONG = ("torture", "relay", "postgres", "log")
"""Folders with files that take long, most of it to wait: begun last, they would end last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _rank(item.path))


def _rank(path: Path) -> int:
    return LONG.index(path.parent.name) if path.parent.name in LONG else len(LONG)


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """Empty places for logs, in a PostgreSQL server that the tests of this process share."""
    if given := os.environ.get(GIVEN_URL):
        yield Databases(given)
        return
    with postgres_server() as server:
        yield Databases(server.url)


@pytest.fixture(scope="module")
def module_postgres_url(databases: Databases) -> Iterator[str]:
    """The same for all tests of a module."""
    with databases.empty() as url:
        yield url


@pytest.fixture
def postgres_url(databases: Databases) -> Iterator[str]:
    """Of an empty place for a log, which is gone afterwards."""
    with databases.empty() as url:
        yield url
