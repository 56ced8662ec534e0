"""Verifies a query service's folder: its copy of the log, and each projection against the fold.

A projection is built anew, in a temporary file, up to where it has come; then the two are compared
row by row. What runs meanwhile is not disturbed.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from query_service.comparing import differences
from query_service.projection import Projection
from query_service.projections import PROJECTIONS
from query_service.state_cache import StateCache
from query_service.store import (
    ProjectionCheckpoint,
    ProjectionFailed,
    apply,
    checkpoint_of,
    files_of,
    is_empty,
    is_live,
    prepare,
)
from shared.errors import DataLoss
from shared.log.sqlite.reading import chunks_after, digest_at
from shared.log.sqlite.verifying import opened, verify_file, verify_log
from shared.sqlite import UNREADABLE, damage_in, snapshot, temporary
from shared.verification import Verification

BATCH_EVENTS = 5_000
BATCH_BYTES = 8 << 20
"""Applied in one transaction; whichever is reached first."""


def verify_store(folder: Path, verification: Verification) -> None:
    """Verifies all that a query service keeps in a folder.

    Raises:
        shared.verification.Unreadable: there is no copy of a log in it.
    """
    with ExitStack() as files:
        # Before the log, so that none of them is ahead of it.
        live = [(each, _live(each, folder, files, verification)) for each in PROJECTIONS]
        log = files.enter_context(opened(folder / "log.db"))
        verify_log(log, [projection.aggregate for projection in PROJECTIONS], verification)
        verification.count("projection", sum(db is not None for _, db in live))
        for projection, db in live:
            if db is not None:
                _verify(projection, db, log, verification)


def _live(
    projection: Projection[Any], folder: Path, files: ExitStack, verification: Verification
) -> sqlite3.Connection | None:
    """The file that counts, as it is now; None: the projection is still to be built."""
    for path in reversed(files_of(folder, projection)):
        try:
            db = files.enter_context(snapshot(path))
            if is_empty(db):
                continue
            checkpoint_of(db)
            if is_live(db, projection.fingerprint):
                return db
        except (DataLoss, *UNREADABLE) as error:
            if not path.exists():
                # Another one has just taken its place.
                return _live(projection, folder, files, verification)
            verification.find(f"{path} cannot be read: {error}")
    return None


def _verify(
    projection: Projection[Any],
    db: sqlite3.Connection,
    log: sqlite3.Connection,
    verification: Verification,
) -> None:
    """Verifies one projection, given its file and that of the log."""
    name = projection.name
    verify_file(db, verification, name)
    checkpoint = checkpoint_of(db)

    def find(sentence: str) -> None:
        verification.find(f"Projection {name} at position {checkpoint.position}: {sentence}")

    try:
        head = log.execute("SELECT coalesce(max(position), 0) FROM chunks").fetchone()[0]
        if not 0 <= checkpoint.position <= head:
            find(f"its copy of the log ends at position {head}")
            return
        if digest_at(log, checkpoint.position) != checkpoint.digest:
            find("its digest is not that of the log")
        with closing(temporary()) as expected:
            _build(projection, expected, log, checkpoint.position, verification)
            for difference in differences(expected, db, "checkpoint"):
                find(difference)
    except (DataLoss, DecodeError, ProjectionFailed) as error:
        find(f"it cannot be built from the log: {error}")
    except UNREADABLE as error:
        find(f"it cannot be read: {damage_in(error)}")


def _build(
    projection: Projection[Any],
    db: sqlite3.Connection,
    log: sqlite3.Connection,
    position: int,
    verification: Verification,
) -> None:
    """Builds the projection in an empty database, as the service does it, up to a position."""
    prepare(db, projection)
    with verification.step(projection.name, position) as advance:
        for records, reached in _batches(log, position):
            # The digest is compared apart.
            apply(db, projection, StateCache(), records, ProjectionCheckpoint(reached))
            advance(reached)


def _batches(log: sqlite3.Connection, until: int) -> Iterator[tuple[list[bytes], int]]:
    """The log up to a position, in pieces, each with the position of its last event."""
    records: list[bytes] = []
    size = 0
    for chunk in chunks_after(log, 0):
        if chunk.first > until:
            break
        records += chunk.records[: until - chunk.first + 1]
        size += len(chunk.encoded)
        if len(records) >= BATCH_EVENTS or size >= BATCH_BYTES:
            yield records, min(chunk.position, until)
            records, size = [], 0
    if records:
        yield records, until
