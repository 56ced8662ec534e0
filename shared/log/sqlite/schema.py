"""The tables of the log, and what is checked before they are used."""

import sqlite3

from shared.errors import DataLoss
from shared.log.log import (
    EMPTY_DIGEST,
    Head,
    chain,
    time_of,
)
from tidemark.v1.event_pb2 import RecordedEvent

SCHEMA_VERSION = 1

# Numbers stand for the texts that would otherwise be repeated in every row and index: an index on
# random text is what makes an append slow. `kinds` lets one column select by tenant, aggregate
# type and event type.
SCHEMA = """
CREATE TABLE aggregates (
    aggregate INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    UNIQUE (tenant_id, aggregate_type, aggregate_id)
) STRICT;
CREATE TABLE kinds (
    kind INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    event_type TEXT NOT NULL,
    UNIQUE (tenant_id, aggregate_type, event_type)
) STRICT;
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    aggregate INTEGER NOT NULL,
    version INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    digest BLOB NOT NULL,
    record BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_of_aggregate ON events (aggregate, version);
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


def prepare(db: sqlite3.Connection) -> Head:
    """Makes the tables if there are none, and returns the head, verified against its digest."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
    elif version != SCHEMA_VERSION:
        raise DataLoss(
            "LOG_CORRUPT", f"The log has schema {version}; this program knows {SCHEMA_VERSION}"
        )
    return _verified_head(db)


def _verified_head(db: sqlite3.Connection) -> Head:
    tail = db.execute(
        "SELECT position, digest, record FROM events ORDER BY position DESC LIMIT 2"
    ).fetchall()
    if not tail:
        return Head()
    position, digest, record = tail[0]
    before = tail[1][1] if len(tail) > 1 else EMPTY_DIGEST
    if chain(before, record) != digest:
        raise DataLoss("LOG_CORRUPT", f"The event at position {position} is not what was written")
    return Head(position, digest, time_of(RecordedEvent.FromString(record)))
