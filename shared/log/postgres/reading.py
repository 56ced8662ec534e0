"""What is read from the tables, each in one statement."""

from collections.abc import Iterable, Mapping
from typing import Any

from shared.log.log import (
    EMPTY_DIGEST,
    EVERYTHING,
    MAX_PAGE_BYTES,
    MAX_PAGE_EVENTS,
    AggregateKey,
    CommandKey,
    EventFilter,
    Head,
    History,
    Page,
    Receipt,
    Snapshot,
    place_of,
)
from shared.log.postgres.connecting import Connection
from shared.log.selection import Selection
from tidemark.v1.event_pb2 import RecordedEvent

MAX_POSITION = 2**63 - 1
SCAN_WINDOW = 20_000
"""Positions that one filtered read looks at before it returns, unless there is an index."""

# The size of a record is known without reading it.
READ = """
SELECT position, digest, record FROM (
    SELECT *, sum(octet_length(record)) OVER (ORDER BY position) - octet_length(record) AS before
    FROM (
        SELECT position, digest, record FROM log_events
        WHERE position > $1 AND position <= $2 {conditions} ORDER BY position LIMIT $3
    ) AS found
) AS sized WHERE before < $4 ORDER BY position
"""

READ_AGGREGATE = """
SELECT record FROM log_events
WHERE tenant_id = $1 AND aggregate_type = $2 AND aggregate_id = $3
    AND version > $4 AND position <= $5
ORDER BY version LIMIT $6
"""

LOAD = """
SELECT snapshot.version, snapshot.schema, snapshot.state, history.records
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY
    AS wanted (tenant_id, aggregate_type, aggregate_id, schema, number)
LEFT JOIN LATERAL (
    SELECT kept.version, kept.schema, kept.state FROM log_snapshots AS kept
    WHERE kept.aggregate_id = wanted.aggregate_id
        AND kept.aggregate_type = wanted.aggregate_type
        AND kept.tenant_id = wanted.tenant_id AND kept.schema = wanted.schema
) AS snapshot ON true
CROSS JOIN LATERAL (
    SELECT ARRAY(
        SELECT event.record FROM log_events AS event
        WHERE event.aggregate_id = wanted.aggregate_id
            AND event.aggregate_type = wanted.aggregate_type
            AND event.tenant_id = wanted.tenant_id
            AND event.version > coalesce(snapshot.version, 0)
        ORDER BY event.version LIMIT $5
    ) AS records
) AS history
ORDER BY wanted.number
"""

RECEIPTS = """
SELECT wanted.tenant_id, wanted.command_id, last.record
FROM unnest($1::text[], $2::uuid[]) AS wanted (tenant_id, command_id)
CROSS JOIN LATERAL (
    SELECT event.record FROM log_events AS event
    WHERE event.command_id = wanted.command_id AND event.tenant_id = wanted.tenant_id LIMIT 1
) AS last
"""


SNAPSHOTS = """
SELECT tenant_id, aggregate_type, aggregate_id, version, schema, state FROM log_snapshots
WHERE (aggregate_id, aggregate_type, tenant_id) > ($1, $2, $3)
ORDER BY aggregate_id, aggregate_type, tenant_id LIMIT $4
"""


async def read(
    connection: Connection,
    after: int,
    until: int,
    limit: int,
    event_filter: EventFilter,
    head: Head,
) -> Page:
    """The next page of what a filter selects, up to a position, which is not beyond the head."""
    conditions, values = _conditions(event_filter)
    # What has no column is looked at here.
    rest = EventFilter(
        event_types=event_filter.event_types, correlation_ids=event_filter.correlation_ids
    )
    if event_filter != EVERYTHING and not event_filter.aggregate_ids:
        until = min(until, after + SCAN_WINDOW)
    count = limit if rest == EVERYTHING else MAX_PAGE_EVENTS
    rows = await connection.fetch(
        READ.format(conditions=conditions), after, until, count, MAX_PAGE_BYTES, *values
    )
    is_cut = len(rows) == count or sum(len(row["record"]) for row in rows) >= MAX_PAGE_BYTES
    position = rows[-1]["position"] if is_cut else until
    if rest != EVERYTHING:
        selection = Selection(rest)
        rows = [row for row in rows if selection.has(row["record"])]
        if len(rows) >= limit:
            rows = rows[:limit]
            position = rows[-1]["position"]
    records = [row["record"] for row in rows]
    if rows and (rows[-1]["position"] == position or event_filter == EVERYTHING):
        return Page(records, position, rows[-1]["digest"])
    digest = head.digest if position == head.position else await digest_at(connection, position)
    return Page(records, position, digest)


def _conditions(event_filter: EventFilter) -> tuple[str, list[Any]]:
    """What of a filter the columns can tell."""
    conditions = ""
    values: list[Any] = []
    for column, wanted in (
        ("tenant_id", {event_filter.tenant_id} - {None}),
        ("aggregate_type", event_filter.aggregate_types),
        ("aggregate_id", event_filter.aggregate_ids),
    ):
        if wanted:
            values.append(list(wanted))
            conditions += f" AND {column} = ANY(${4 + len(values)}::text[])"
    return conditions, values


async def read_aggregate(
    connection: Connection,
    key: AggregateKey,
    after_version: int,
    until_position: int | None,
    limit: int,
) -> list[bytes]:
    """The next records of an aggregate."""
    until = MAX_POSITION if until_position is None else until_position
    rows = await connection.fetch(READ_AGGREGATE, *key, after_version, until, limit)
    return [row["record"] for row in rows]


async def load(
    connection: Connection, schemas: Mapping[AggregateKey, bytes]
) -> dict[AggregateKey, History]:
    """Where to begin with each aggregate."""
    columns = [list(column) for column in zip(*schemas, strict=True)]
    rows = await connection.fetch(LOAD, *columns, list(schemas.values()), MAX_PAGE_EVENTS)
    return {
        key: History(None if version is None else Snapshot(version, schema, state), list(records))
        for key, (version, schema, state, records) in zip(schemas, rows, strict=True)
    }


async def receipts(
    connection: Connection, commands: Iterable[CommandKey]
) -> dict[CommandKey, Receipt]:
    """Those receipts that there are."""
    tenant_ids, command_ids = zip(*commands, strict=True)
    rows = await connection.fetch(RECEIPTS, list(tenant_ids), list(command_ids))
    return {
        CommandKey(tenant_id, str(command_id)): Receipt.of(RecordedEvent.FromString(record))
        for tenant_id, command_id, record in rows
    }


async def snapshots(
    connection: Connection, after: AggregateKey | None, limit: int
) -> dict[AggregateKey, Snapshot]:
    """The next snapshots."""
    place = place_of(after) if after else ("", "", "")
    return {
        AggregateKey(*row[:3]): Snapshot(*row[3:])
        for row in await connection.fetch(SNAPSHOTS, *place, limit)
    }


async def position_at(connection: Connection, time: int) -> int:
    """The position of the last event recorded at or before a time; 0: there is none."""
    found = await connection.fetchval(
        "SELECT position FROM log_events WHERE time <= $1 ORDER BY time DESC LIMIT 1", time
    )
    return int(found or 0)


async def digest_at(connection: Connection, position: int) -> bytes:
    """The digest of the log up to a position."""
    found = await connection.fetchval(
        "SELECT digest FROM log_events WHERE position <= $1 ORDER BY position DESC LIMIT 1",
        position,
    )
    return EMPTY_DIGEST if found is None else bytes(found)


async def event_time(connection: Connection, after: int) -> int | None:
    """When the first event after a position was recorded."""
    found = await connection.fetchval(
        "SELECT time FROM log_events WHERE position > $1 ORDER BY position LIMIT 1", after
    )
    return None if found is None else int(found)
