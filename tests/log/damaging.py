"""Damage to a log's file, as a disk, a bug or a hand may do it."""

import itertools
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from shared.log.log import EMPTY_DIGEST, chain
from shared.log.sqlite.chunks import COLUMNS, Chunk
from shared.sqlite import insert
from tidemark.internal.v1.stored_pb2 import StoredSubscribeResponse
from tidemark.v1.event_pb2 import RecordedEvent


def change(path: Path, *statements: str) -> None:
    """Executes statements, each of which has to change something."""
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            assert db.execute(statement).rowcount != 0, f"nothing to do for {statement}"


def flip(path: Path, record: bytes) -> None:
    """Flips a bit in the middle of something that the file has once."""
    stored = bytearray(path.read_bytes())
    assert stored.count(record) == 1
    stored[stored.index(record) + len(record) // 2] ^= 1
    path.write_bytes(stored)


def rewrite(path: Path, position: int, alter: Callable[[RecordedEvent], object]) -> None:
    """Alters one event, and the digests so that they fit."""
    digest = EMPTY_DIGEST
    with closing(sqlite3.connect(path)) as db, db:
        rows = db.execute(f"SELECT {COLUMNS} FROM chunks ORDER BY position").fetchall()  # noqa: S608  # ours
        for chunk in itertools.starmap(Chunk.stored, rows):
            stored = StoredSubscribeResponse.FromString(chunk.encoded)
            if chunk.first <= position <= chunk.position:
                event = RecordedEvent.FromString(stored.events[position - chunk.first])
                alter(event)
                stored.events[position - chunk.first] = event.SerializeToString(deterministic=True)
            for record in stored.events:
                digest = chain(digest, record)
            chunk.digest, chunk.encoded = digest, stored.SerializeToString()
            db.execute("DELETE FROM chunks WHERE position = ?", (chunk.position,))
            insert(db, "chunks", [chunk.row])


def reseal(path: Path) -> None:
    """Makes the checksums fit what is stored, as whoever altered it on purpose would."""
    with closing(sqlite3.connect(path)) as db, db:
        for *columns, _ in db.execute(f"SELECT {COLUMNS} FROM chunks").fetchall():  # noqa: S608  # ours
            chunk = Chunk(*columns)
            db.execute("DELETE FROM chunks WHERE position = ?", (chunk.position,))
            insert(db, "chunks", [chunk.row])
