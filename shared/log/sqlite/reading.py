"""What is read from the tables. Each function runs whole in a reader's thread."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import cast
from uuid import UUID

from shared.log.log import (
    EMPTY_DIGEST,
    MAX_PAGE_BYTES,
    MAX_PAGE_EVENTS,
    AggregateKey,
    CommandKey,
    EventFilter,
    History,
    Page,
    Receipt,
    Snapshot,
    time_of,
)
from tidemark.v1.event_pb2 import RecordedEvent

MAX_POSITION = 2**63 - 1


def read_all(db: sqlite3.Connection, after: int, until: int, limit: int) -> Page:
    """The next page of everything."""
    rows = db.execute(
        "SELECT position, record, digest FROM events WHERE position > ? AND position <= ?"
        " ORDER BY position LIMIT ?",
        (after, until, limit),
    )
    records = []
    size = 0
    position, digest = after, b""
    for row_position, record, row_digest in rows:
        position, digest = row_position, row_digest
        records.append(record)
        size += len(record)
        if size >= MAX_PAGE_BYTES:
            break
    return Page(records, position, digest or digest_at(db, after))


def read_filtered(
    db: sqlite3.Connection, after: int, until: int, limit: int, event_filter: EventFilter
) -> Page:
    """The next page of what a filter selects, up to a position."""
    kinds = _kinds(db, event_filter)
    conditions = ["position > ?", "position <= ?", _in("kind", kinds)]
    arguments: list[object] = [after, until, *kinds]
    if event_filter.aggregate_ids:
        aggregates = _aggregates(db, event_filter)
        conditions.append(_in("aggregate", aggregates))
        arguments += aggregates
    rows = db.execute(
        f"SELECT position, record FROM events WHERE {' AND '.join(conditions)} ORDER BY position",  # noqa: S608  # only placeholders
        arguments,
    )
    records = []
    size = 0
    position = until
    for row_position, record in rows:
        if event_filter.correlation_ids:
            correlation_id = RecordedEvent.FromString(record).correlation_id
            if correlation_id not in event_filter.correlation_ids:
                continue
        records.append(record)
        size += len(record)
        if size >= MAX_PAGE_BYTES or len(records) == limit:
            position = row_position
            break
    return Page(records, position, digest_at(db, position))


def _kinds(db: sqlite3.Connection, event_filter: EventFilter) -> list[int]:
    return [
        kind
        for kind, tenant_id, aggregate_type, event_type in db.execute("SELECT * FROM kinds")
        if event_filter.tenant_id in {None, tenant_id}
        and aggregate_type in (event_filter.aggregate_types or {aggregate_type})
        and event_type in (event_filter.event_types or {event_type})
    ]


def _in(column: str, values: Sequence[int]) -> str:
    return f"{column} IN ({', '.join('?' * len(values))})"


def _aggregates(db: sqlite3.Connection, event_filter: EventFilter) -> list[int]:
    ids = sorted(event_filter.aggregate_ids)
    kinds = db.execute("SELECT DISTINCT tenant_id, aggregate_type FROM kinds").fetchall()
    return [
        found[0]
        for tenant_id, aggregate_type in kinds
        if event_filter.tenant_id in {None, tenant_id}
        for aggregate_id in ids
        for found in db.execute(
            "SELECT aggregate FROM aggregates"
            " WHERE tenant_id = ? AND aggregate_type = ? AND aggregate_id = ?",
            (tenant_id, aggregate_type, aggregate_id),
        )
    ]


def read_aggregate(
    db: sqlite3.Connection, key: AggregateKey, after_version: int, until_position: int | None
) -> list[bytes]:
    """The next page of an aggregate."""
    until = MAX_POSITION if until_position is None else until_position
    rows = db.execute(
        "SELECT record FROM aggregates JOIN events USING (aggregate)"
        " WHERE tenant_id = ? AND aggregate_type = ? AND aggregate_id = ?"
        " AND version > ? AND position <= ? ORDER BY version LIMIT ?",
        (*key, after_version, until, MAX_PAGE_EVENTS),
    )
    return [record for (record,) in rows]


def load(
    db: sqlite3.Connection, schemas: Mapping[AggregateKey, bytes]
) -> dict[AggregateKey, History]:
    """Where to begin with each aggregate."""
    histories = {}
    for key, schema in schemas.items():
        found = db.execute(
            "SELECT version, schema, state FROM aggregates JOIN snapshots USING (aggregate)"
            " WHERE tenant_id = ? AND aggregate_type = ? AND aggregate_id = ? AND schema = ?",
            (*key, schema),
        ).fetchone()
        snapshot = Snapshot(*found) if found else None
        after = snapshot.version if snapshot else 0
        histories[key] = History(snapshot, read_aggregate(db, key, after, None))
    return histories


def receipts(db: sqlite3.Connection, commands: Iterable[CommandKey]) -> dict[CommandKey, Receipt]:
    """Those receipts that there are."""
    found = ((command, receipt(db, command)) for command in commands)
    return {command: kept for command, kept in found if kept is not None}


def receipt(db: sqlite3.Connection, command: CommandKey) -> Receipt | None:
    """The receipt of one command."""
    found = db.execute(
        "SELECT record FROM receipts JOIN events USING (position)"
        " WHERE command_id = ? AND tenant_id = ?",
        (UUID(command.command_id).bytes, command.tenant_id),
    ).fetchone()
    return Receipt.of(RecordedEvent.FromString(found[0])) if found else None


def position_at(db: sqlite3.Connection, time: int) -> int:
    """By bisection: times increase with positions, so no index is needed."""
    first = _first_after(db, 0)
    if first is None or time_of(first) > time:
        return 0
    low = first.position
    high = cast("int", db.execute("SELECT max(position) FROM events").fetchone()[0]) + 1
    # Not later is the event at `low`; later, or none, the first at or after `high`.
    while high - low > 1:
        middle = (low + high) // 2
        event = _first_after(db, middle - 1)
        if event is not None and time_of(event) <= time:
            low = event.position
        else:
            high = middle
    return low


def _first_after(db: sqlite3.Connection, position: int) -> RecordedEvent | None:
    found = db.execute(
        "SELECT record FROM events WHERE position > ? ORDER BY position LIMIT 1", (position,)
    ).fetchone()
    return RecordedEvent.FromString(found[0]) if found else None


def digest_at(db: sqlite3.Connection, position: int) -> bytes:
    """The digest of the log up to a position."""
    found = db.execute(
        "SELECT digest FROM events WHERE position <= ? ORDER BY position DESC LIMIT 1",
        (position,),
    ).fetchone()
    return cast("bytes", found[0]) if found else EMPTY_DIGEST


def event_time(db: sqlite3.Connection, after: int) -> int | None:
    """When the first event after a position was recorded."""
    event = _first_after(db, after)
    return time_of(event) if event else None
