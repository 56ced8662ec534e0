"""What is read from the tables. Each function runs whole in a reader's thread."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from shared.errors import DataLoss
from shared.log.log import (
    EMPTY_DIGEST,
    EVERYTHING,
    MAX_PAGE_EVENTS,
    AggregateKey,
    CommandKey,
    EventFilter,
    History,
    Page,
    Receipt,
    Snapshot,
    chain,
    place_of,
    time_of,
)
from shared.log.sqlite.chunks import COLUMNS, Chunk, page_of
from tidemark.v1.event_pb2 import RecordedEvent

MAX_POSITION = 2**63 - 1
SCAN_WINDOW = 5_000
"""Positions that one filtered read looks at before it returns, so that a reader is soon free."""


def read(
    db: sqlite3.Connection, after: int, until: int, limit: int, event_filter: EventFilter
) -> Page:
    """The next page of what a filter selects, up to a position."""
    if event_filter != EVERYTHING and until - after > SCAN_WINDOW:
        indexed = db.execute("SELECT versions FROM indexed").fetchone()[0]
        if event_filter.aggregate_ids and indexed - after > SCAN_WINDOW:
            return _read_aggregates(db, after, min(until, indexed), limit, event_filter)
        until = after + SCAN_WINDOW
    chunks = chunks_after(db, after)
    return page_of(chunks, after, until, limit, event_filter, lambda at: digest_at(db, at))


def _read_aggregates(
    db: sqlite3.Connection, after: int, until: int, limit: int, event_filter: EventFilter
) -> Page:
    """The same, by the index on the aggregates, which are few in a long piece of the log."""
    positions: list[int] = []
    for aggregate in _aggregates(db, event_filter):
        version = _first_version_after(db, aggregate, after)
        rows = db.execute(
            "SELECT position FROM versions WHERE aggregate = ? AND version >= ?"
            " AND position <= ? ORDER BY version LIMIT ?",
            (aggregate, version, until, limit),
        )
        positions += (position for (position,) in rows)
    positions.sort()
    if len(positions) >= limit:
        until = positions[limit - 1]
    chunks = (
        Chunk.of([record], position, b"", set())
        for position, record in records_at(db, positions[:limit])
    )
    return page_of(chunks, after, until, limit, event_filter, lambda at: digest_at(db, at))


def _first_version_after(db: sqlite3.Connection, aggregate: int, position: int) -> int:
    """By bisection: the versions and the positions of an aggregate increase together."""
    low = 1
    high = 1 + version_of(db, aggregate)
    while low < high:
        middle = (low + high) // 2
        found = db.execute(
            "SELECT position FROM versions WHERE aggregate = ? AND version = ?", (aggregate, middle)
        ).fetchone()
        if found is not None and found[0] <= position:
            low = middle + 1
        else:
            high = middle
    return low


def _aggregates(db: sqlite3.Connection, event_filter: EventFilter) -> list[int]:
    """The numbers of the aggregates that have the ids, in whatever tenants and types."""
    return [
        aggregate
        for aggregate_id in event_filter.aggregate_ids
        for aggregate, tenant_id in db.execute(
            "SELECT aggregate, tenant_id FROM aggregates WHERE aggregate_id = ?", (aggregate_id,)
        )
        if event_filter.tenant_id in {None, tenant_id}
    ]


def aggregate_of(db: sqlite3.Connection, key: AggregateKey) -> int | None:
    """An aggregate's number in the index; None: the index does not know it."""
    found = db.execute(
        "SELECT aggregate FROM aggregates"
        " WHERE tenant_id = ? AND aggregate_type = ? AND aggregate_id = ?",
        key,
    ).fetchone()
    return found[0] if found else None


def version_of(db: sqlite3.Connection, aggregate: int) -> int:
    """The version up to which the index has an aggregate."""
    found = db.execute("SELECT max(version) FROM versions WHERE aggregate = ?", (aggregate,))
    return cast("int", found.fetchone()[0] or 0)


def read_aggregate(
    db: sqlite3.Connection,
    key: AggregateKey,
    after_version: int,
    until_position: int | None,
    limit: int = MAX_PAGE_EVENTS,
) -> list[bytes]:
    """The next records of an aggregate, as far as it is indexed."""
    # In one row, and the chunks below in one statement: at each step Python lets go of its
    # interpreter lock, for which others wait.
    [found] = db.execute(
        "SELECT group_concat(position) FROM"
        " (SELECT position FROM versions WHERE version > ? AND position <= ? AND aggregate ="
        " (SELECT aggregate FROM aggregates"
        " WHERE tenant_id = ? AND aggregate_type = ? AND aggregate_id = ?)"
        " ORDER BY version LIMIT ?)",
        (
            after_version,
            MAX_POSITION if until_position is None else until_position,
            *key,
            limit,
        ),
    ).fetchone()
    if found is None:
        return []
    return [record for _, record in records_at(db, sorted(map(int, found.split(","))))]


def load(
    db: sqlite3.Connection, schemas: Mapping[AggregateKey, bytes]
) -> dict[AggregateKey, History]:
    """Where to begin with each aggregate, as far as it is indexed."""
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
    """Those receipts that there are, as far as they are indexed."""
    found = ((command, receipt(db, command)) for command in commands)
    return {command: kept for command, kept in found if kept is not None}


def receipt(db: sqlite3.Connection, command: CommandKey) -> Receipt | None:
    """The receipt of one command."""
    found = db.execute(
        "SELECT position FROM receipts WHERE command_id = ? AND tenant_id = ?",
        (command_id_bytes(command.command_id), command.tenant_id),
    ).fetchone()
    if found is None:
        return None
    [(position, record)] = records_at(db, [found[0]])
    event = RecordedEvent.FromString(record)
    if (event.tenant_id, event.causation_id) != (command.tenant_id, command.command_id):
        raise DataLoss("LOG_CORRUPT", f"The receipt at position {position} is another command's")
    return Receipt.of(event)


def snapshots(
    db: sqlite3.Connection, after: AggregateKey | None, limit: int
) -> dict[AggregateKey, Snapshot]:
    """The next snapshots, as far as they are indexed."""
    rows = db.execute(
        "SELECT tenant_id, aggregate_type, aggregate_id, version, schema, state"
        " FROM aggregates JOIN snapshots USING (aggregate)"
        " WHERE (aggregate_id, aggregate_type, tenant_id) > (?, ?, ?)"
        " ORDER BY aggregate_id, aggregate_type, tenant_id LIMIT ?",
        (*(place_of(after) if after else ("", "", "")), limit),
    )
    return {AggregateKey(*row[:3]): Snapshot(*row[3:]) for row in rows}


def command_id_bytes(command_id: str) -> bytes:
    """A UUID in half the room."""
    return bytes.fromhex(command_id.replace("-", ""))


def position_at(db: sqlite3.Connection, time: int) -> int:
    """By bisection: times increase with positions, so no index is needed."""
    low = 0
    high = 1 + cast("int", db.execute("SELECT max(position) FROM chunks").fetchone()[0] or 0)
    # Not later is the chunk that ends at `low`; later, or none, the first that ends at `high`.
    while high - low > 1:
        middle = (low + high) // 2
        chunk = next(chunks_after(db, middle - 1), None)
        if chunk is not None and _time_of(chunk.records[-1]) <= time:
            low = chunk.position
        else:
            high = middle
    chunk = next(chunks_after(db, low), None)
    for position, record in enumerate(chunk.records, chunk.first) if chunk else ():
        if _time_of(record) > time:
            break
        low = position
    return low


def _time_of(record: bytes) -> int:
    return time_of(RecordedEvent.FromString(record))


def digest_at(db: sqlite3.Connection, position: int) -> bytes:
    """The digest of the log up to a position.

    Raises:
        DataLoss: LOG_CORRUPT.
    """
    found = db.execute(
        "SELECT position, digest FROM chunks WHERE position <= ? ORDER BY position DESC LIMIT 1",
        (position,),
    ).fetchone()
    reached, digest = found or (0, EMPTY_DIGEST)
    if reached < position:
        chunk = next(chunks_after(db, position), None)
        if chunk is not None and chunk.first <= position:
            for record in chunk.records[: position - chunk.first + 1]:
                digest = chain(digest, record)
    if not isinstance(digest, bytes):
        raise DataLoss("LOG_CORRUPT", f"The digest at position {position} is lost")
    return digest


def event_time(db: sqlite3.Connection, after: int) -> int | None:
    """When the first event after a position was recorded."""
    chunk = next(chunks_after(db, after), None)
    return _time_of(chunk.record(max(after + 1, chunk.first))) if chunk else None


def chunks_after(db: sqlite3.Connection, position: int) -> Iterator[Chunk]:
    """The chunks that have an event after a position, in order."""
    rows = db.execute(
        f"SELECT {COLUMNS} FROM chunks WHERE position > ? ORDER BY position",  # noqa: S608  # ours
        (position,),
    )
    return (Chunk.stored(*row) for row in rows)


def records_at(db: sqlite3.Connection, positions: list[int]) -> Iterator[tuple[int, bytes]]:
    """The records at positions that are in the index, in ascending order."""
    rows = db.execute(
        f"SELECT {COLUMNS} FROM chunks WHERE position IN"  # noqa: S608  # ours
        " (SELECT (SELECT position FROM chunks WHERE position >= value ORDER BY position LIMIT 1)"
        " FROM json_each(?)) ORDER BY position",
        (json.dumps(positions),),
    )
    chunks = (Chunk.stored(*row) for row in rows)
    chunk = next(chunks, None)
    for position in positions:
        while chunk is not None and position > chunk.position:
            chunk = next(chunks, None)
        if chunk is None or position < chunk.first:
            raise DataLoss("LOG_CORRUPT", f"There is no event at position {position}")
        yield position, chunk.record(position)
