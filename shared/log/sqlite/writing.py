"""The transactions of the writer: each runs whole in its thread."""

import sqlite3
from collections.abc import Iterable
from types import TracebackType

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
    WrongVersion,
    stamp,
    time_of,
)
from shared.log.sqlite.chunks import Chunk, chunked
from shared.log.sqlite.reading import aggregate_of, receipt, version_of
from shared.log.sqlite.unindexed import Events
from shared.sqlite import insert, primary_code
from tidemark.v1.event_pb2 import RecordedEvent

MAX_CACHED_AGGREGATES = 100_000


class Known:
    """What the writer knows without asking.

    Args:
        head: of the log.
        unindexed: the events that the index does not have.
    """

    def __init__(self, head: Head, unindexed: Events) -> None:
        self.head = head
        self.unindexed = unindexed
        self.unindexed_bytes = sum(len(placed[3]) for placed in unindexed.placed)
        self._versions: dict[AggregateKey, int] = {}

    def version_of(self, key: AggregateKey) -> int | None:
        """The version of an aggregate; None: the index has to be asked."""
        version = self._versions.get(key)
        return self.unindexed.versions.get(key) if version is None else version

    def add(self, written: "Written") -> None:
        """Notes what has become durable."""
        self.head = written.head
        self.unindexed.extend(written.events)
        self.unindexed_bytes += sum(len(chunk.encoded) for chunk in written.chunks)
        if len(self._versions) > MAX_CACHED_AGGREGATES:
            self._versions.clear()
        self._versions.update(written.events.versions)

    def is_indexed(self) -> None:
        """Notes that the index has everything."""
        self.unindexed = Events()
        self.unindexed_bytes = 0


class Written:
    """What a transaction has added to the log."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.chunks: list[Chunk] = []
        self.events = Events()


class Transaction:
    """One transaction of the writer: what it adds becomes known when it is durable."""

    def __init__(self, db: sqlite3.Connection, known: Known) -> None:
        self._db = db
        self._known = known
        self.written = Written(known.head)
        self._events = self.written.events
        self._position = known.head.position
        self._time = known.head.time
        self._failed: set[AggregateKey] = set()

    def __enter__(self) -> "Transaction":
        self._db.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error_type is not None or not self.written.chunks:
            roll_back(self._db)
            return
        try:
            insert(self._db, "chunks", [chunk.row for chunk in self.written.chunks])
        except BaseException:
            roll_back(self._db)
            raise
        commit(self._db)
        self._known.add(self.written)

    def append(self, commits: Iterable[Commit], now: int) -> list[Outcome]:
        """Adds commits: an outcome for each."""
        outcomes = [self._outcome(commit, now) for commit in commits]
        self._seal()
        return outcomes

    def copy(self, records: Iterable[bytes], digest: bytes) -> None:
        """Adds records of another log; an empty digest is not known.

        Raises:
            DataLoss: LOG_DIVERGED: they do not follow, or lead to another digest.
        """
        for record in records:
            self._copy(record)
        self._seal()
        if digest and digest != self.written.head.digest:
            raise DataLoss("LOG_DIVERGED", f"Another digest at position {self._position}")

    def _outcome(self, commit: Commit, now: int) -> Outcome:
        key = commit.key
        version = self._version(key)
        if key in self._failed:
            return WrongVersion(version)
        if commit.command is not None and (receipt := self._receipt(commit.command)) is not None:
            self._failed.add(key)
            return Duplicate(receipt)
        if commit.expected_version != version:
            self._failed.add(key)
            return WrongVersion(version)
        if commit.events:
            self._add(commit, now)
        return Committed(self._position)

    def _add(self, commit: Commit, now: int) -> None:
        key, version = commit.key, commit.expected_version
        record = b""
        for event in commit.events:
            version += 1
            self._position += 1
            self._time = max(now, self._time + 1)
            record = stamp(event, self._position, self._time)
            self._events.placed.append((key, version, self._position, record))
        self._events.versions[key] = version
        if commit.command is not None:
            self._events.receipts[commit.command] = (self._position, record)
        if commit.snapshot is not None:
            self._events.snapshots[key] = commit.snapshot

    def _copy(self, record: bytes) -> None:
        try:
            event = RecordedEvent.FromString(record)
        except DecodeError as error:
            raise DataLoss("LOG_DIVERGED", "What is to be copied is no event") from error
        key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
        position, version, time = event.position, event.version, time_of(event)
        if not (
            position > self._position and time > self._time and version == self._version(key) + 1
        ):
            raise DataLoss(
                "LOG_DIVERGED", f"Position {position} cannot follow position {self._position}"
            )
        self._position, self._time = position, time
        self._events.placed.append((key, version, position, record))
        self._events.versions[key] = version
        if event.command_fingerprint:
            command = CommandKey(event.tenant_id, event.causation_id)
            self._events.receipts[command] = (position, record)

    def _seal(self) -> None:
        """Makes chunks of the events, and the head that they lead to."""
        self.written.chunks = list(chunked(self._events.placed, self._known.head.digest))
        if self.written.chunks:
            digest = self.written.chunks[-1].digest
            self.written.head = Head(self._position, digest, self._time)

    def _version(self, key: AggregateKey) -> int:
        version = self._events.versions.get(key)
        if version is None:
            version = self._known.version_of(key)
        if version is None:
            aggregate = aggregate_of(self._db, key)
            version = version_of(self._db, aggregate) if aggregate else 0
        return version

    def _receipt(self, command: CommandKey) -> Receipt | None:
        for receipts in (self._events.receipts, self._known.unindexed.receipts):
            if command in receipts:
                return Receipt.of(RecordedEvent.FromString(receipts[command][1]))
        return receipt(self._db, command)


def commit(db: sqlite3.Connection) -> None:
    """Commits.

    Raises:
        OutcomeUnknown: it may or may not have been written.
        sqlite3.Error: it was not.
    """
    try:
        db.execute("COMMIT")
    except sqlite3.Error as error:
        if primary_code(error) not in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY}:
            raise OutcomeUnknown(f"COMMIT failed: {error}") from error
        roll_back(db)
        raise


def roll_back(db: sqlite3.Connection) -> None:
    """Undoes what is not committed; some errors have SQLite do that by itself."""
    if db.in_transaction:
        db.execute("ROLLBACK")
