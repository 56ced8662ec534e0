"""The newest events, which the index does not have yet: what finds them is in memory."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from shared.log.log import MAX_PAGE_EVENTS, AggregateKey, CommandKey, History, Snapshot
from shared.log.sqlite.chunks import Chunk, Placed
from tidemark.v1.event_pb2 import RecordedEvent


@dataclass(slots=True)
class Events:
    """Events that follow one another in the log, with what else is to be known of them.

    Args:
        placed: the events, in log order.
        versions: of their aggregates, after them.
        receipts: the position and the record of a command's last event.
        snapshots: of their aggregates.
    """

    placed: list[Placed] = field(default_factory=list)
    versions: dict[AggregateKey, int] = field(default_factory=dict)
    receipts: dict[CommandKey, tuple[int, bytes]] = field(default_factory=dict)
    snapshots: dict[AggregateKey, Snapshot] = field(default_factory=dict)

    @classmethod
    def of(cls, chunks: Iterable[Chunk]) -> "Events":
        """Those of pieces of the log that follow one another."""
        events = cls()
        for chunk in chunks:
            for record in chunk.records:
                event = RecordedEvent.FromString(record)
                key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
                events.placed.append((key, event.version, event.position, record))
                events.versions[key] = event.version
                if event.command_fingerprint:
                    command = CommandKey(event.tenant_id, event.causation_id)
                    events.receipts[command] = (event.position, record)
        return events

    def extend(self, later: "Events") -> None:
        """Adds what comes after."""
        self.placed += later.placed
        self.versions.update(later.versions)
        self.receipts.update(later.receipts)
        self.snapshots.update(later.snapshots)


class Unindexed:
    """What the event loop looks up of the events that the index does not have."""

    def __init__(self) -> None:
        self.receipts: dict[CommandKey, tuple[int, bytes]] = {}
        self.snapshots: dict[AggregateKey, Snapshot] = {}
        self._placed: defaultdict[AggregateKey, list[Placed]] = defaultdict(list)

    def add(self, events: Events) -> None:
        """Adds what was written."""
        by_aggregate = self._placed
        for placed in events.placed:
            by_aggregate[placed[0]].append(placed)
        self.receipts.update(events.receipts)
        self.snapshots.update(events.snapshots)

    def recent(self, key: AggregateKey, schema: bytes = b"") -> "Recent":
        """What is here of an aggregate, to be asked for before the index is.

        Args:
            key: which it is.
            schema: that a snapshot has to be of.
        """
        snapshot = self.snapshots.get(key)
        is_fitting = snapshot is not None and snapshot.schema == schema
        return Recent(self._placed.get(key, []), snapshot if is_fitting else None)


class Recent:
    """The newest part of an aggregate's past.

    The index is asked after this was made, so together they lack nothing; what the index has got
    meanwhile is in both.
    """

    def __init__(self, events: list[Placed], snapshot: Snapshot | None) -> None:
        self._events = events
        self._snapshot = snapshot

    def reaches_back_to(self, version: int) -> bool:
        """Whether it has every event after a version."""
        return bool(self._events) and self._events[0][1] <= version + 1

    def history(self) -> History | None:
        """Where to begin with the aggregate; None: further back."""
        version = self._snapshot.version if self._snapshot else 0
        if not self.reaches_back_to(version):
            return None
        return History(self._snapshot, self.added_to([], version))

    def added_to(
        self,
        records: list[bytes],
        after_version: int,
        until_position: int | None = None,
        limit: int = MAX_PAGE_EVENTS,
    ) -> list[bytes]:
        """The records that the index has after a version, and those that follow."""
        version = after_version + len(records)
        for _, event_version, position, record in self._events:
            if len(records) >= limit:
                break
            if until_position is not None and position > until_position:
                break
            if event_version > version:
                records.append(record)
        return records
