"""The one transaction that appends: it runs whole in the writer's thread."""

import sqlite3
from typing import NamedTuple, cast
from uuid import UUID

from google.protobuf.message import DecodeError

from shared.errors import DataLoss
from shared.log.log import (
    AggregateKey,
    CommandKey,
    Commit,
    Committed,
    Duplicate,
    Head,
    Outcome,
    OutcomeUnknown,
    Receipt,
    Snapshot,
    WrongVersion,
    chain,
    stamp,
    time_of,
)
from shared.log.sqlite.reading import receipt
from shared.sqlite import primary_code
from tidemark.v1.event_pb2 import RecordedEvent

MAX_CACHED_AGGREGATES = 100_000


class Known:
    """What the writer knows without asking."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.aggregates: dict[AggregateKey, _Row] = {}
        self.kinds: dict[tuple[str, str, str], int] = {}


class _Row(NamedTuple):
    """An aggregate's number, 0 before it has one, and its version."""

    aggregate: int
    version: int


class Transaction:
    """One transaction of the writer: what it adds becomes known when it is durable."""

    def __init__(self, db: sqlite3.Connection, known: Known) -> None:
        self._db = db
        self._known = known
        self._head = known.head
        self._aggregates: dict[AggregateKey, _Row] = {}
        self._kinds: dict[tuple[str, str, str], int] = {}
        self._failed: set[AggregateKey] = set()
        self._events: list[tuple[int, int, int, int, bytes, bytes]] = []
        self._receipts: dict[CommandKey, RecordedEvent] = {}
        self._snapshots: dict[int, Snapshot] = {}

    def __enter__(self) -> "Transaction":
        self._db.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is not None:
            self._roll_back()
            return
        if self._head == self._known.head:
            self._roll_back()
            return
        try:
            self._insert()
        except sqlite3.Error:
            self._roll_back()
            raise
        self._commit()
        self._remember()

    def append(self, commit: Commit, now: int) -> Outcome:
        """Adds a commit, or says why not."""
        key = commit.key
        row = self._row(key)
        if key in self._failed:
            return WrongVersion(row.version)
        if commit.command is not None and (receipt := self._receipt(commit.command)) is not None:
            self._failed.add(key)
            return Duplicate(receipt)
        if commit.expected_version != row.version:
            self._failed.add(key)
            return WrongVersion(row.version)
        for event in commit.events:
            time = max(now, self._head.time + 1)
            self._add(event, stamp(event, self._head.position + 1, time))
        if commit.events and commit.command is not None:
            self._receipts[commit.command] = commit.events[-1]
        if commit.events and commit.snapshot is not None:
            self._snapshots[self._aggregates[key].aggregate] = commit.snapshot
        return Committed(self._head.position)

    def copy(self, record: bytes) -> None:
        """Adds a record of another log."""
        try:
            event = RecordedEvent.FromString(record)
        except DecodeError as error:
            raise DataLoss("LOG_DIVERGED", "What is to be copied is no event") from error
        key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
        follows = (
            event.position > self._head.position
            and time_of(event) > self._head.time
            and event.version == self._row(key).version + 1
        )
        if not follows:
            raise DataLoss(
                "LOG_DIVERGED",
                f"Position {event.position} cannot follow position {self._head.position}",
            )
        self._add(event, record)
        if event.command_fingerprint:
            self._receipts[CommandKey(event.tenant_id, event.causation_id)] = event

    def verify(self, digest: bytes) -> None:
        """Refuses to go on if the chain has another digest; empty: it is not known."""
        if digest and digest != self._head.digest:
            raise DataLoss("LOG_DIVERGED", f"Another digest at position {self._head.position}")

    def _add(self, event: RecordedEvent, record: bytes) -> None:
        key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
        aggregate = self._row(key).aggregate or self._new_aggregate(key)
        event_type = event.payload.type_url.rpartition("/")[2]
        kind = self._kind((event.tenant_id, event.aggregate_type, event_type))
        self._aggregates[key] = _Row(aggregate, event.version)
        self._head = Head(event.position, chain(self._head.digest, record), time_of(event))
        self._events.append(
            (event.position, aggregate, event.version, kind, self._head.digest, record)
        )

    def _row(self, key: AggregateKey) -> _Row:
        row = self._aggregates.get(key) or self._known.aggregates.get(key)
        if row is None:
            found = self._db.execute(
                "SELECT aggregate, (SELECT max(version) FROM events AS e"
                "                   WHERE e.aggregate = a.aggregate)"
                " FROM aggregates AS a"
                " WHERE tenant_id = ? AND aggregate_type = ? AND aggregate_id = ?",
                key,
            ).fetchone()
            row = _Row(*found) if found else _Row(0, 0)
            self._aggregates[key] = row
        return row

    def _new_aggregate(self, key: AggregateKey) -> int:
        cursor = self._db.execute(
            "INSERT INTO aggregates (tenant_id, aggregate_type, aggregate_id) VALUES (?, ?, ?)",
            key,
        )
        return cast("int", cursor.lastrowid)

    def _kind(self, names: tuple[str, str, str]) -> int:
        kind = self._kinds.get(names) or self._known.kinds.get(names)
        if kind is None:
            found = self._db.execute(
                "SELECT kind FROM kinds"
                " WHERE tenant_id = ? AND aggregate_type = ? AND event_type = ?",
                names,
            ).fetchone()
            if found is None:
                cursor = self._db.execute(
                    "INSERT INTO kinds (tenant_id, aggregate_type, event_type) VALUES (?, ?, ?)",
                    names,
                )
                found = (cursor.lastrowid,)
            self._kinds[names] = kind = found[0]
        return kind

    def _receipt(self, command: CommandKey) -> Receipt | None:
        event = self._receipts.get(command)
        if event is not None:
            return Receipt.of(event)
        return receipt(self._db, command)

    def _insert(self) -> None:
        self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", self._events)
        self._db.executemany(
            "INSERT INTO receipts VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET position = excluded.position",
            [
                (UUID(command.command_id).bytes, command.tenant_id, event.position)
                for command, event in self._receipts.items()
            ],
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
            [
                (aggregate, snapshot.version, snapshot.schema, snapshot.state)
                for aggregate, snapshot in self._snapshots.items()
            ],
        )

    def _commit(self) -> None:
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if primary_code(error) not in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY}:
                raise OutcomeUnknown(f"COMMIT failed: {error}") from error
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        # Some errors have SQLite roll back by itself.
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _remember(self) -> None:
        known = self._known
        known.head = self._head
        if len(known.aggregates) + len(self._aggregates) > MAX_CACHED_AGGREGATES:
            known.aggregates.clear()
        known.aggregates.update(self._aggregates)
        known.kinds.update(self._kinds)
