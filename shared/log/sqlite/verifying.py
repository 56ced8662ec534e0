"""Verifies a log in SQLite: what is stored, event by event, and all that points at the events."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from shared.aggregates.aggregate import Aggregate
from shared.errors import DataLoss
from shared.log.sqlite.chunks import COLUMNS, Chunk
from shared.log.sqlite.schema import SCHEMA_VERSION
from shared.log.sqlite.verifying_index import IndexVerification
from shared.log.verifying import Walk, places
from shared.sqlite import UNREADABLE, damage_in, snapshot
from shared.verification import Unreadable, Verification


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The log in a file as it is now, for the length of a block; see `shared.sqlite.snapshot`.

    Raises:
        Unreadable: it is no log of this program's, or cannot be read.
    """
    if not path.is_file():
        raise Unreadable(f"There is no {path}")
    try:
        with snapshot(path) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != SCHEMA_VERSION:
                raise Unreadable(
                    f"{path} is no log of schema {SCHEMA_VERSION}, which this program knows, but"
                    f" of schema {version}"
                )
            yield db
    except UNREADABLE as error:
        try:
            damage = damage_in(error)
        except sqlite3.Error:
            damage = "there is no room for temporary files, which are where TMPDIR says"
        raise Unreadable(f"{path} cannot be read: {damage}") from error


def verify_log(
    db: sqlite3.Connection, aggregates: Iterable[Aggregate[Any]], verification: Verification
) -> None:
    """Verifies the file, the log in it and the log's index.

    It takes no more memory for a long log than for a short one: the index is sorted on disk, and
    states that are not needed for a while go there, in temporary files.

    Args:
        db: of `opened`.
        aggregates: the kinds that can be folded.
        verification: told what does not hold.

    Raises:
        sqlite3.Error: it lacks a table.
    """
    verify_file(db, verification)
    by_name = {aggregate.name: aggregate for aggregate in aggregates}
    walk = Walk(by_name, verification.find)
    index = IndexVerification(db, by_name, verification)
    events = 0
    try:
        last = db.execute("SELECT max(position) FROM chunks").fetchone()[0]
        with verification.step("log", last) as advance:
            for row in db.execute(f"SELECT {COLUMNS} FROM chunks ORDER BY position"):  # noqa: S608  # ours
                chunk = _chunk(row, verification)
                events += _verify_chunk(chunk, walk, index, verification)
                advance(walk.position)
        index.end(walk.position)
    except UNREADABLE as error:
        damage = damage_in(error)
        verification.find(f"Position {walk.position + 1}: cannot be read from here on: {damage}")
    verification.count("event", events)
    verification.count("aggregate", walk.folds.count())
    index.count()


def verify_file(db: sqlite3.Connection, verification: Verification, name: str = "log") -> None:
    """Has SQLite verify its own structures, tables and indexes."""
    with verification.step(f"file of {name}"):
        try:
            problems = [row[0] for row in db.execute("PRAGMA integrity_check")]
        except UNREADABLE as error:
            problems = [damage_in(error)]
    for problem in problems:
        if problem != "ok":
            verification.find(f"The file of {name} is damaged: {' '.join(problem.split())}")


def _chunk(row: tuple[Any, ...], verification: Verification) -> Chunk:
    """What is stored, even if it is not what was written: its events may be sound."""
    try:
        return Chunk.stored(*row)
    except DataLoss:
        *columns, _checksum = row
        chunk = Chunk(*columns)
        verification.find(f"{places(chunk.first, chunk.position)}: not what was written")
        return chunk


def _verify_chunk(
    chunk: Chunk, walk: Walk, index: IndexVerification, verification: Verification
) -> int:
    """Returns how many events were verified."""
    where = places(chunk.first, chunk.position)
    try:
        records = chunk.records
    except (DataLoss, DecodeError):
        verification.find(f"{where}: what is stored is not that many events")
        walk.skip(chunk.position, chunk.digest)
        index.skip(chunk.position)
        return 0
    events = 0
    tenant_ids: set[str] = set()
    for walked in walk.over(records, chunk.first, chunk.digest):
        index.verify(walked)
        tenant_ids.add(walked.key.tenant_id)
        events += 1
    [tenant_id] = tenant_ids if len(tenant_ids) == 1 else [None]
    if events == len(records) and tenant_id != chunk.tenant_id:
        verification.find(f"{where}: tenant {chunk.tenant_id!r} is said to be that of each event")
    return events
