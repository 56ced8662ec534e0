"""Of a page that is lost SQLite can find nothing at all: that is damage, and no mistake of ours."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from shared.errors import DataLoss
from shared.log.sqlite.chunks import COLUMNS
from shared.log.sqlite.reading import chunks_after, digest_at


@pytest.fixture
def lost() -> Iterator[sqlite3.Connection]:
    """A log whose first chunk has lost what it had."""
    with closing(sqlite3.connect(":memory:")) as db:
        # Without its constraints, which a page that is lost does not know of.
        db.execute(f"CREATE TABLE chunks ({COLUMNS})")
        db.execute("INSERT INTO chunks (position, first) VALUES (5, 1)")
        yield db


def test_a_chunk_without_content_is_damaged(lost: sqlite3.Connection) -> None:
    with pytest.raises(DataLoss, match="positions 1 to 5 are not what was written"):
        next(chunks_after(lost, 0))


def test_a_digest_that_is_not_there_is_damaged(lost: sqlite3.Connection) -> None:
    with pytest.raises(DataLoss, match="digest at position 5 is lost"):
        digest_at(lost, 5)
