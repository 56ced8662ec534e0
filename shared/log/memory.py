"""The log in memory: the shortest text that keeps the port's promises.

A reference for the tests, which also let several writers share one. Not offered to users: it is not
durable.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence

from shared.errors import DataLoss
from shared.log.log import (
    EVERYTHING,
    MAX_PAGE_BYTES,
    MAX_PAGE_EVENTS,
    MAX_PAGE_SNAPSHOTS,
    AggregateKey,
    CommandKey,
    Commit,
    Committed,
    Duplicate,
    EventFilter,
    Head,
    HeadSignal,
    History,
    Outcome,
    Page,
    Receipt,
    Snapshot,
    WrongVersion,
    chain,
    place_of,
    stamp,
    time_of,
)
from tidemark.v1.event_pb2 import RecordedEvent


class MemoryLog:
    """See `shared.log.log.EventLog`."""

    is_exclusive = False

    def __init__(self, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._clock = clock
        self._signal = HeadSignal(Head())
        self._heads = [Head()]
        self._events: list[RecordedEvent] = []
        self._records: list[bytes] = []
        self._versions: dict[AggregateKey, list[int]] = {}
        self._receipts: dict[CommandKey, Receipt] = {}
        self._snapshots: dict[AggregateKey, Snapshot] = {}

    @property
    def head(self) -> Head:
        """The newest event."""
        return self._signal.head

    async def newest(self) -> Head:
        """See `EventLog.newest`."""
        return self.head

    async def append(self, commits: Sequence[Commit]) -> list[Outcome]:
        """See `EventLog.append`."""
        now = self._clock()
        failed: set[AggregateKey] = set()
        outcomes = []
        for commit in commits:
            outcome = self._append(commit, now, failed)
            if not isinstance(outcome, Committed):
                failed.add(commit.key)
            outcomes.append(outcome)
        self._signal.move(self._heads[-1])
        return outcomes

    def _append(self, commit: Commit, now: int, failed: set[AggregateKey]) -> Outcome:
        version = len(self._versions.get(commit.key, ()))
        if commit.key in failed:
            return WrongVersion(version)
        if commit.command in self._receipts:
            return Duplicate(self._receipts[commit.command])
        if commit.expected_version != version:
            return WrongVersion(version)
        for event in commit.events:
            head = self._heads[-1]
            self._add(event, stamp(event, head.position + 1, max(now, head.time + 1)))
        if commit.events and commit.command is not None:
            self._receipts[commit.command] = Receipt.of(commit.events[-1])
        if commit.events and commit.snapshot is not None:
            self._snapshots[commit.key] = commit.snapshot
        return Committed(self._heads[-1].position)

    async def copy(self, records: Sequence[bytes], digest: bytes = b"") -> None:
        """See `EventLog.copy`."""
        events = [RecordedEvent.FromString(record) for record in records]
        versions = {key: len(indexes) for key, indexes in self._versions.items()}
        last = self.head
        for event, record in zip(events, records, strict=True):
            key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
            versions[key] = versions.get(key, 0) + 1
            if (
                event.position <= last.position
                or time_of(event) <= last.time
                or event.version != versions[key]
            ):
                raise DataLoss("LOG_DIVERGED", f"{event.position} cannot follow {last.position}")
            last = Head(event.position, chain(last.digest, record), time_of(event))
        if digest and digest != last.digest:
            raise DataLoss("LOG_DIVERGED", f"Another digest at position {last.position}")
        for event, record in zip(events, records, strict=True):
            self._add(event, record)
            if event.command_fingerprint:
                command = CommandKey(event.tenant_id, event.causation_id)
                self._receipts[command] = Receipt.of(event)
        self._signal.move(self._heads[-1])

    def _add(self, event: RecordedEvent, record: bytes) -> None:
        key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
        self._versions.setdefault(key, []).append(len(self._records))
        digest = chain(self._heads[-1].digest, record)
        self._heads.append(Head(event.position, digest, time_of(event)))
        self._events.append(RecordedEvent.FromString(record))
        self._records.append(record)

    def _count(self, position: int) -> int:
        """How many events have positions up to this one."""
        return bisect_right(self._heads, position, key=lambda head: head.position) - 1

    async def read(
        self,
        after: int,
        limit: int = MAX_PAGE_EVENTS,
        event_filter: EventFilter = EVERYTHING,
        until: int | None = None,
    ) -> Page:
        """See `EventLog.read`."""
        records: list[bytes] = []
        position = max(after, self.head.position)
        if until is not None:
            position = min(position, until)
        for index in range(self._count(after), self._count(position)):
            if _selects(event_filter, self._events[index]):
                records.append(self._records[index])
                if len(records) == limit or sum(map(len, records)) >= MAX_PAGE_BYTES:
                    position = self._events[index].position
                    break
        return Page(records, position, self._heads[self._count(position)].digest)

    async def read_aggregate(
        self,
        key: AggregateKey,
        after_version: int = 0,
        until_position: int | None = None,
        limit: int = MAX_PAGE_EVENTS,
    ) -> list[bytes]:
        """See `EventLog.read_aggregate`."""
        indexes = self._versions.get(key, [])[after_version:]
        if until_position is not None:
            indexes = [i for i in indexes if self._events[i].position <= until_position]
        return [self._records[i] for i in indexes[:limit]]

    async def load(self, schemas: Mapping[AggregateKey, bytes]) -> dict[AggregateKey, History]:
        """See `EventLog.load`."""
        histories = {}
        for key, schema in schemas.items():
            snapshot = self._snapshots.get(key)
            if snapshot is not None and snapshot.schema != schema:
                snapshot = None
            after = snapshot.version if snapshot else 0
            histories[key] = History(snapshot, await self.read_aggregate(key, after))
        return histories

    async def receipts(self, commands: Iterable[CommandKey]) -> dict[CommandKey, Receipt]:
        """See `EventLog.receipts`."""
        return {each: self._receipts[each] for each in commands if each in self._receipts}

    async def snapshots(
        self, after: AggregateKey | None = None, limit: int = MAX_PAGE_SNAPSHOTS
    ) -> dict[AggregateKey, Snapshot]:
        """See `EventLog.snapshots`."""
        keys = sorted(self._snapshots, key=place_of)
        start = 0 if after is None else bisect_right(keys, place_of(after), key=place_of)
        return {key: self._snapshots[key] for key in keys[start : start + limit]}

    async def keep(self, snapshots: Mapping[AggregateKey, Snapshot]) -> None:
        """See `EventLog.keep`."""
        self._snapshots.update(snapshots)

    async def position_at(self, time: int) -> int:
        """See `EventLog.position_at`."""
        count = bisect_right(self._heads, time, key=lambda head: head.time)
        return self._heads[count - 1].position if count else 0

    async def digest_at(self, position: int) -> bytes | None:
        """See `EventLog.digest_at`."""
        if position > self.head.position:
            return None
        return self._heads[self._count(position)].digest

    async def event_time(self, after: int) -> int | None:
        """See `EventLog.event_time`."""
        index = self._count(after)
        return time_of(self._events[index]) if index < len(self._events) else None

    async def wait(self, after: int) -> None:
        """See `EventLog.wait`."""
        await self._signal.wait(after)

    async def close(self) -> None:
        """Nothing to close."""


def _selects(event_filter: EventFilter, event: RecordedEvent) -> bool:
    return (
        event_filter.tenant_id in {None, event.tenant_id}
        and _passes(event_filter.event_types, event.payload.type_url.rpartition("/")[2])
        and _passes(event_filter.aggregate_types, event.aggregate_type)
        and _passes(event_filter.aggregate_ids, event.aggregate_id)
        and _passes(event_filter.correlation_ids, event.correlation_id)
    )


def _passes(condition: frozenset[str], value: str) -> bool:
    return not condition or value in condition
