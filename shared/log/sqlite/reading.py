"""What is read from the tables. Each function runs whole in a reader's thread."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
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
SCAN_WINDOW = 20_000
"""Positions that one filtered read looks at before it returns, so that a reader is soon free."""


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
    if event_filter.aggregate_ids and until - after > SCAN_WINDOW:
        return _read_aggregates(db, after, until, limit, event_filter)
    until = min(until, after + SCAN_WINDOW)
    rows = _select(db, "position > ? AND position <= ?", (after, until), event_filter)
    return _page(db, rows, until, limit, event_filter)


def _read_aggregates(
    db: sqlite3.Connection, after: int, until: int, limit: int, event_filter: EventFilter
) -> Page:
    """The same, by the index on the aggregates, which are few in a long piece of the log."""
    positions: list[int] = []
    for aggregate in _aggregates(db, event_filter):
        version = _first_version_after(db, aggregate, after)
        rows = db.execute(
            "SELECT position FROM events WHERE aggregate = ? AND version >= ?"
            " AND position <= ? ORDER BY version LIMIT ?",
            (aggregate, version, until, limit),
        )
        positions += (position for (position,) in rows)
    positions.sort()
    if len(positions) >= limit:
        until = positions[limit - 1]
    found = (
        row
        for position in positions[:limit]
        for row in _select(db, "position = ?", (position,), event_filter)
    )
    return _page(db, found, until, limit, event_filter)


def _first_version_after(db: sqlite3.Connection, aggregate: int, position: int) -> int:
    """By bisection: the versions and the positions of an aggregate increase together."""
    low = 1
    high = 1 + cast(
        "int",
        db.execute("SELECT max(version) FROM events WHERE aggregate = ?", (aggregate,)).fetchone()[
            0
        ]
        or 0,
    )
    while low < high:
        middle = (low + high) // 2
        found = db.execute(
            "SELECT position FROM events WHERE aggregate = ? AND version = ?", (aggregate, middle)
        ).fetchone()
        if found is not None and found[0] <= position:
            low = middle + 1
        else:
            high = middle
    return low


def _select(
    db: sqlite3.Connection, where: str, arguments: tuple[int, ...], event_filter: EventFilter
) -> Iterator[tuple[int, bytes]]:
    """Positions and records, by position, of the right kind and aggregate."""
    values: list[object] = [*arguments]
    if event_filter.tenant_id is not None:
        where += " AND kinds.tenant_id = ?"
        values.append(event_filter.tenant_id)
    for column, wanted in (
        ("kinds.event_type", event_filter.event_types),
        ("kinds.aggregate_type", event_filter.aggregate_types),
        ("aggregates.aggregate_id", event_filter.aggregate_ids),
    ):
        if wanted:
            where += f" AND {column} IN ({', '.join('?' * len(wanted))})"
            values += sorted(wanted)
    joined = "events CROSS JOIN kinds USING (kind)"
    if event_filter.aggregate_ids:
        joined += " CROSS JOIN aggregates USING (aggregate)"
    # A cross join is SQLite's way to say in which order: the events first, then what they are.
    return db.execute(
        f"SELECT position, record FROM {joined} WHERE {where} ORDER BY position",  # noqa: S608  # only placeholders
        values,
    )


def _page(
    db: sqlite3.Connection,
    rows: Iterable[tuple[int, bytes]],
    until: int,
    limit: int,
    event_filter: EventFilter,
) -> Page:
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


def _aggregates(db: sqlite3.Connection, event_filter: EventFilter) -> list[int]:
    """The numbers of the aggregates that have the ids, in whatever tenants and types."""
    where, values = "", []
    if event_filter.tenant_id is not None:
        where, values = "WHERE tenant_id = ?", [event_filter.tenant_id]
    streams = db.execute(f"SELECT DISTINCT tenant_id, aggregate_type FROM kinds {where}", values)  # noqa: S608  # ours
    return [
        aggregate
        for tenant_id, aggregate_type in streams.fetchall()
        for aggregate_id in event_filter.aggregate_ids
        for (aggregate,) in db.execute(
            "SELECT aggregate FROM aggregates"
            " WHERE tenant_id = ? AND aggregate_type = ? AND aggregate_id = ?",
            (tenant_id, aggregate_type, aggregate_id),
        )
    ]


def read_aggregate(
    db: sqlite3.Connection,
    key: AggregateKey,
    after_version: int,
    until_position: int | None,
    limit: int = MAX_PAGE_EVENTS,
) -> list[bytes]:
    """The next page of an aggregate."""
    until = MAX_POSITION if until_position is None else until_position
    rows = db.execute(
        "SELECT record FROM aggregates JOIN events USING (aggregate)"
        " WHERE tenant_id = ? AND aggregate_type = ? AND aggregate_id = ?"
        " AND version > ? AND position <= ? ORDER BY version LIMIT ?",
        (*key, after_version, until, limit),
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
