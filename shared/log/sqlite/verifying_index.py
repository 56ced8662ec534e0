"""Verifies the index: that it finds every event up to where it reaches, and nothing else.

All that points at events is sorted by where it points, which SQLite does on disk, and then goes
along with the walk over the log.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from shared.aggregates.aggregate import Aggregate
from shared.log.folds import say
from shared.log.log import AggregateKey
from shared.log.sqlite.pointers import Pointers
from shared.log.sqlite.reading import command_id_bytes
from shared.log.sqlite.schema import REACH
from shared.log.verifying import Walked
from shared.verification import Verification
from tidemark.v1.event_pb2 import RecordedEvent

MAX_CACHED_KEYS = 100_000


class _Version(NamedTuple):
    """An entry of the index on versions; without a key, of an aggregate that it does not know."""

    key: AggregateKey | None
    version: int

    def __str__(self) -> str:
        return f"the index entry of version {self.version} of {_say(self.key)}"


class _Receipt(NamedTuple):
    """An entry of the index on commands."""

    command_id: bytes
    tenant_id: str

    def __str__(self) -> str:
        return f"the receipt of command {self.command_id.hex()} of tenant {self.tenant_id!r}"


class _Taken(NamedTuple):
    """A snapshot, and the number of its aggregate in the index."""

    number: int
    version: int

    def __str__(self) -> str:
        return f"a snapshot of version {self.version}"


class IndexVerification:
    """The whole index, along with one walk over the log.

    Args:
        db: the log's, in a transaction that reads.
        aggregates: the kinds that can be folded, by name.
        verification: told what does not hold.

    Raises:
        sqlite3.Error: how far the index reaches cannot be read.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        aggregates: Mapping[str, Aggregate[Any]],
        verification: Verification,
    ) -> None:
        self._db = db
        self._aggregates = aggregates
        self._verification = verification
        self._find = verification.find
        reach: list[tuple[int, int]] = db.execute(REACH).fetchall()
        if len(reach) != 1:
            self._find("The index does not say up to where it reaches")
        self._versions_reach, self._receipts_reach = reach[0] if len(reach) == 1 else (0, 0)
        self._versions = Pointers(_versions(db), str, self._find)
        self._receipts = Pointers(_receipts(db), str, self._find)
        self._snapshots = Pointers(_snapshots(db), str, self._find)
        # Whether it was its command's last, the next event tells.
        self._previous: Walked | None = None

    def verify(self, walked: Walked) -> None:
        """Compares what points at the next event with what has to."""
        position = walked.position
        version = _Version(walked.key, walked.event.version)
        self._versions.compare(position, version if position <= self._versions_reach else None)
        for taken in self._snapshots.take(position):
            self._verify_snapshot(taken, walked)
        self._verify_receipt(walked)
        self._previous = walked

    def skip(self, position: int) -> None:
        """Passes a piece of the log that cannot be read, up to its last position."""
        self._previous = None
        for part in (self._versions, self._receipts, self._snapshots):
            part.skip(position)

    def end(self, position: int) -> None:
        """Tells what is left after the last event, which is at a position."""
        self._verify_receipt(None)
        for part in (self._versions, self._receipts, self._snapshots):
            part.end()
        reach = max(self._versions_reach, self._receipts_reach)
        if reach > position:
            self._find(f"Position {reach}: the index reaches up to here, but the log to {position}")
        for known in _without_versions(self._db):
            self._find(f"The index knows {say(known)}, but no version of it")
        for key, version in _without_version(self._db):
            self._find(
                f"There is a snapshot of version {version} of {_say(key)}, but no such version"
            )

    def count(self) -> None:
        """Counts what was verified."""
        self._verification.count("receipt", self._receipts.count)
        self._verification.count("snapshot", self._snapshots.count)

    def _verify_receipt(self, following: Walked | None) -> None:
        """Verifies that of the previous event, now that the one after it is known."""
        if self._previous is None:
            return
        position, event, _, _ = self._previous
        is_last = (
            following is None
            or following.position > self._receipts_reach
            or _command(following.event) != _command(event)
        )
        receipt = None
        if event.command_fingerprint and position <= self._receipts_reach and is_last:
            try:
                receipt = _Receipt(command_id_bytes(event.causation_id), event.tenant_id)
            except ValueError:
                self._find(f"Position {position}: command {event.causation_id!r} is no UUID")
        self._receipts.compare(position, receipt)

    def _verify_snapshot(self, taken: _Taken, walked: Walked) -> None:
        """Compares a snapshot, unless it is of another schema: then it is not used."""
        schema, stored = self._db.execute(
            "SELECT schema, state FROM snapshots WHERE aggregate = ?", (taken.number,)
        ).fetchone()
        aggregate = self._aggregates.get(walked.key.aggregate_type)
        if aggregate is None or walked.state is None or schema != aggregate.snapshot_schema:
            return
        try:
            is_right = _decisive(aggregate.state.FromString(stored)) == _decisive(walked.state)
        except DecodeError:
            is_right = False
        if is_right:
            self._snapshots.count += 1
        else:
            self._find(
                f"Position {walked.position}: the snapshot of version {taken.version} of"
                f" {say(walked.key)} is not what its events lead to"
            )


# What is of another type than its column SQLite finds when it verifies the file.


def _versions(db: sqlite3.Connection) -> Iterator[tuple[int, _Version]]:
    keys: dict[int, AggregateKey | None] = {}
    for position, number, version in db.execute(
        "SELECT position, aggregate, version FROM versions WHERE typeof(position) = 'integer'"
        " ORDER BY position"
    ):
        if number not in keys:
            if len(keys) >= MAX_CACHED_KEYS:
                keys.clear()
            keys[number] = _key(db, number)
        yield position, _Version(keys[number], version)


def _receipts(db: sqlite3.Connection) -> Iterator[tuple[int, _Receipt]]:
    for position, command_id, tenant_id in db.execute(
        "SELECT position, command_id, tenant_id FROM receipts WHERE typeof(position) = 'integer'"
        " ORDER BY position"
    ):
        yield position, _Receipt(command_id, tenant_id)


def _snapshots(db: sqlite3.Connection) -> Iterator[tuple[int, _Taken]]:
    for position, number, version in db.execute(
        "SELECT position, aggregate, version FROM snapshots"
        " JOIN versions USING (aggregate, version) WHERE typeof(position) = 'integer'"
        " ORDER BY position"
    ):
        yield position, _Taken(number, version)


def _without_version(db: sqlite3.Connection) -> Iterator[_Version]:
    """Snapshots of what is not in the index."""
    rows = db.execute(
        "SELECT aggregate, version FROM snapshots LEFT JOIN versions USING (aggregate, version)"
        " WHERE position IS NULL"
    )
    return (_Version(_key(db, number), version) for number, version in rows)


def _without_versions(db: sqlite3.Connection) -> Iterator[AggregateKey]:
    """Aggregates of which nothing is in the index."""
    rows = db.execute(
        "SELECT tenant_id, aggregate_type, aggregate_id FROM aggregates AS known"
        " WHERE NOT EXISTS (SELECT 1 FROM versions WHERE aggregate = known.aggregate)"
    )
    return (AggregateKey(*row) for row in rows)


def _key(db: sqlite3.Connection, number: int) -> AggregateKey | None:
    found = db.execute(
        "SELECT tenant_id, aggregate_type, aggregate_id FROM aggregates WHERE aggregate = ?",
        (number,),
    ).fetchone()
    return AggregateKey(*found) if found else None


def _say(key: AggregateKey | None) -> str:
    return say(key) if key else "an unknown aggregate"


def _command(event: RecordedEvent) -> tuple[str, str]:
    return event.tenant_id, event.causation_id


def _decisive(state: Any) -> bytes:
    """What decisions rest on: a snapshot is taken before its last event has a time."""
    copy = type(state)()
    copy.CopyFrom(state)
    for field in ("created_at", "updated_at"):
        if field in copy.DESCRIPTOR.fields_by_name:
            copy.ClearField(field)
    return bytes(copy.SerializeToString(deterministic=True))
