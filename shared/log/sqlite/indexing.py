"""What brings the log into its index, some thousand events at once and sorted."""

import sqlite3
from collections.abc import Iterable, Mapping

from shared.log.log import AggregateKey, CommandKey, Snapshot
from shared.log.sqlite.reading import aggregate_of, chunks_after, command_id_bytes
from shared.log.sqlite.unindexed import Events
from shared.log.sqlite.writing import Known, commit, roll_back
from shared.sqlite import insert
from tidemark.v1.event_pb2 import RecordedEvent

INDEX_EVENTS = 4096
INDEX_BYTES = 8 << 20
"""What may be in memory only to be found; it is read again when the log is opened."""

MAX_CACHED_NUMBERS = 100_000


class Index:
    """Follows the log in the writer's thread.

    Args:
        with_receipts: whether commands will be looked up; if not, that part is made when the log is
            next opened with it.
    """

    def __init__(self, *, with_receipts: bool) -> None:
        self._with_receipts = with_receipts
        self._numbers: dict[AggregateKey, int] = {}

    def is_due(self, known: Known) -> bool:
        """Whether what it lacks is too much to be kept in memory."""
        return len(known.unindexed.placed) >= INDEX_EVENTS or known.unindexed_bytes >= INDEX_BYTES

    def add(self, db: sqlite3.Connection, known: Known) -> None:
        """Adds everything up to the head of the log.

        Raises:
            OutcomeUnknown: it may or may not have been written.
            sqlite3.Error: it was not.
        """
        events, position = known.unindexed, known.head.position
        db.execute("BEGIN IMMEDIATE")
        try:
            numbers = self._numbered(db, events)
            insert(
                db,
                "versions",
                sorted((numbers[key], version, at) for key, version, at, _ in events.placed),
            )
            _add_snapshots(db, events, numbers)
            db.execute("UPDATE indexed SET versions = ?", (position,))
            if self._with_receipts:
                _add_receipts(db, ((key, found[0]) for key, found in events.receipts.items()))
                db.execute("UPDATE indexed SET receipts = ?", (position,))
        except BaseException:
            roll_back(db)
            raise
        commit(db)
        known.is_indexed()
        if len(self._numbers) + len(numbers) > MAX_CACHED_NUMBERS:
            self._numbers.clear()
        self._numbers.update(numbers)

    def keep(
        self, db: sqlite3.Connection, known: Known, snapshots: Mapping[AggregateKey, Snapshot]
    ) -> None:
        """Keeps snapshots of aggregates all of whose events are in the log.

        Raises: as `add` does.
        """
        self.add(db, known)
        db.execute("BEGIN IMMEDIATE")
        try:
            db.executemany(
                "INSERT OR REPLACE INTO snapshots SELECT aggregate, ?, ?, ? FROM aggregates"
                " WHERE tenant_id = ? AND aggregate_type = ? AND aggregate_id = ?",
                [
                    (snapshot.version, snapshot.schema, snapshot.state, *key)
                    for key, snapshot in snapshots.items()
                ],
            )
        except BaseException:
            roll_back(db)
            raise
        commit(db)

    def _numbered(self, db: sqlite3.Connection, events: Events) -> dict[AggregateKey, int]:
        """The aggregates' keys in the index, where new ones get one."""
        numbers: dict[AggregateKey, int] = {}
        new = []
        for key in events.versions:
            number = self._numbers.get(key) or aggregate_of(db, key)
            if number is None:
                new.append(key)
            else:
                numbers[key] = number
        new.sort(key=lambda key: key.aggregate_id)
        last = db.execute("SELECT coalesce(max(aggregate), 0) FROM aggregates").fetchone()[0]
        numbers.update(zip(new, range(last + 1, last + 1 + len(new)), strict=True))
        insert(
            db,
            "aggregates",
            [(numbers[key], key.aggregate_id, key.aggregate_type, key.tenant_id) for key in new],
        )
        return numbers


def _add_snapshots(
    db: sqlite3.Connection, events: Events, numbers: dict[AggregateKey, int]
) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
        [
            (numbers[key], snapshot.version, snapshot.schema, snapshot.state)
            for key, snapshot in events.snapshots.items()
        ],
    )


def _add_receipts(db: sqlite3.Connection, receipts: Iterable[tuple[CommandKey, int]]) -> None:
    """Adds commands, each with the position of its last event."""
    rows = [(command_id_bytes(key.command_id), key.tenant_id, at) for key, at in receipts]
    rows.sort()
    db.executemany(
        "INSERT INTO receipts VALUES (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET position = excluded.position",
        rows,
    )


def complete_receipts(db: sqlite3.Connection) -> None:
    """Adds the receipts of events that were copied into a log which did not keep them."""
    versions, receipts = db.execute("SELECT versions, receipts FROM indexed").fetchone()
    while receipts < versions:
        found: dict[CommandKey, int] = {}
        for chunk in chunks_after(db, receipts):
            for record in chunk.records:
                event = RecordedEvent.FromString(record)
                if event.command_fingerprint:
                    found[CommandKey(event.tenant_id, event.causation_id)] = event.position
            receipts = chunk.position
            if receipts >= versions or len(found) >= INDEX_EVENTS:
                break
        db.execute("BEGIN IMMEDIATE")
        _add_receipts(db, found.items())
        db.execute("UPDATE indexed SET receipts = ?", (receipts,))
        db.execute("COMMIT")
