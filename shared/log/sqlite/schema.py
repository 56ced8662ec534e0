"""The tables of the log, and what is checked before they are used."""

import sqlite3
from typing import NamedTuple

from shared.errors import DataLoss
from shared.log.log import (
    EMPTY_DIGEST,
    AggregateKey,
    CommandKey,
    Head,
    Receipt,
    chain,
    time_of,
)
from shared.log.sqlite.chunks import COLUMNS, Chunk
from shared.log.sqlite.reading import aggregate_of, receipt, records_at, version_of
from tidemark.v1.event_pb2 import RecordedEvent

SCHEMA_VERSION = 3

# The log is `chunks`: a commit writes there and nowhere else. All that finds an event by something
# other than its position is an index that follows some thousand events behind, written in sorted
# batches: a random key in an index is what makes an append slow.
SCHEMA = """
CREATE TABLE chunks (
    position INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    digest BLOB NOT NULL,
    tenant_id TEXT,
    records BLOB NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE indexed (
    versions INTEGER NOT NULL,
    receipts INTEGER NOT NULL
) STRICT;
INSERT INTO indexed VALUES (0, 0);
CREATE TABLE aggregates (
    aggregate INTEGER PRIMARY KEY,
    aggregate_id TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    UNIQUE (aggregate_id, aggregate_type, tenant_id)
) STRICT;
CREATE TABLE versions (
    aggregate INTEGER NOT NULL,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (aggregate, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE receipts (
    command_id BLOB NOT NULL,
    tenant_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (command_id, tenant_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE snapshots (
    aggregate INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    schema BLOB NOT NULL,
    state BLOB NOT NULL
) STRICT;
"""


REACH = """
SELECT versions, receipts FROM indexed
WHERE typeof(versions) = 'integer' AND typeof(receipts) = 'integer'
"""
"""Up to which positions the index has everything; a damaged row is none."""


class Tail(NamedTuple):
    """The end of the log: its head, and before it what the index on versions does not have yet."""

    head: Head
    unindexed: list[Chunk]
    digest_before: bytes


def prepare(db: sqlite3.Connection) -> Tail:
    """Makes the tables if there are none, and returns the verified end of the log."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
    elif version != SCHEMA_VERSION:
        raise DataLoss(
            "LOG_CORRUPT", f"The log has schema {version}; this program knows {SCHEMA_VERSION}"
        )
    return _verified_tail(db)


def _verified_tail(db: sqlite3.Connection) -> Tail:
    reach = db.execute(REACH).fetchall()
    if len(reach) != 1:
        raise DataLoss("LOG_CORRUPT", "The index does not say up to where it reaches")
    [(indexed, receipts)] = reach
    # The last one at least, so that what the index is said to have is verified too.
    last = db.execute("SELECT max(position) FROM chunks").fetchone()[0] or 0
    if max(indexed, receipts) > last:
        raise DataLoss("LOG_CORRUPT", f"The log ends at position {last}, its index later")
    _verify_index_end(db, indexed, receipts)
    rows = db.execute(
        f"SELECT {COLUMNS} FROM chunks WHERE position > ? ORDER BY position",  # noqa: S608  # ours
        (min(indexed, last - 1),),
    )
    chunks = [Chunk.stored(*row) for row in rows]
    if not chunks:
        return Tail(Head(), [], EMPTY_DIGEST)
    before = _digest_before(db, chunks[0].first)
    digest = before
    for chunk in chunks:
        for record in chunk.records:
            digest = chain(digest, record)
        if digest != chunk.digest:
            raise DataLoss(
                "LOG_CORRUPT",
                f"The events at positions {chunk.first} to {chunk.position} are not what was"
                " written",
            )
    time = time_of(RecordedEvent.FromString(chunks[-1].records[-1]))
    if chunks[0].position <= indexed:
        before = chunks.pop(0).digest
    return Tail(Head(last, digest, time), chunks, before)


def _verify_index_end(db: sqlite3.Connection, indexed: int, receipts: int) -> None:
    """Makes sure that the index has the last events that it is said to have.

    If it lacked them, an aggregate would be taken to be at an older version, or a command not to
    have been executed.
    """
    if indexed:
        event = _event_at(db, indexed)
        key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
        number = aggregate_of(db, key)
        if number is None or version_of(db, number) != event.version:
            raise DataLoss("LOG_CORRUPT", f"The index lacks the event at position {indexed}")
    if receipts:
        event = _event_at(db, receipts)
        command = CommandKey(event.tenant_id, event.causation_id)
        if event.command_fingerprint and receipt(db, command) != Receipt.of(event):
            raise DataLoss("LOG_CORRUPT", f"The receipt of position {receipts} is missing")


def _event_at(db: sqlite3.Connection, position: int) -> RecordedEvent:
    [(_, record)] = records_at(db, [position])
    return RecordedEvent.FromString(record)


def _digest_before(db: sqlite3.Connection, position: int) -> bytes:
    found = db.execute(
        "SELECT digest FROM chunks WHERE position < ? ORDER BY position DESC LIMIT 1", (position,)
    ).fetchone()
    return bytes(found[0]) if found else EMPTY_DIGEST
