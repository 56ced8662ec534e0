"""The log, as a port: what the services ask of a store, whichever it is.

Promises of every adapter, held by `tests/log/contract.py`:

- Positions strictly increase in commit order. No reader at position p ever meets an event below p
  later.
- Each commit is all or nothing, and durable when `append` returns.
- The digest is a chain over the stored bytes: d(n) = SHA-256(d(n-1) ‖ record n), from 32 zero
  bytes. A record is a serialized `RecordedEvent`, its position included, all its fields in
  ascending order.
- `occurred_at` strictly increases along the log, whatever the clock does.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from shared.changes import Changes
from tidemark.v1.event_pb2 import RecordedEvent

EMPTY_DIGEST = bytes(32)
MICROSECONDS = 1_000_000
"""Per second. Times are whole microseconds since 1970 in UTC."""

MAX_PAGE_EVENTS = 1000
MAX_PAGE_BYTES = 1 << 20
"""A page ends with the record that reaches this."""

MAX_PAGE_SNAPSHOTS = 100


class AggregateKey(NamedTuple):
    """Which aggregate. The same id in two tenants is two aggregates."""

    tenant_id: str
    aggregate_type: str
    aggregate_id: str


class CommandKey(NamedTuple):
    """Which command. The same id in two tenants is two commands."""

    tenant_id: str
    command_id: str


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of the log; position 0 before the first."""

    position: int = 0
    digest: bytes = EMPTY_DIGEST
    time: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of an aggregate at a version, and the schema that it was written with."""

    version: int
    schema: bytes
    state: bytes


@dataclass(slots=True)
class Commit:
    """The events of one command, for one aggregate.

    Args:
        key: the aggregate.
        expected_version: what its version has to be before; 0: it does not exist.
        events: complete but for position and occurred_at, which the log sets in place. Without
            events a commit only asserts the version.
        command: under which the receipt is kept, so that a repetition is recognized; None: it
            cannot be repeated.
        snapshot: of the state after the events, kept with them.
    """

    key: AggregateKey
    expected_version: int
    events: Sequence[RecordedEvent]
    command: CommandKey | None = None
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """The commit is durable; position is that of its last event, or of the head without events."""

    position: int


@dataclass(frozen=True, slots=True)
class WrongVersion:
    """Nothing was written: the aggregate is at another version."""

    actual: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an earlier command did, derived from its last event."""

    aggregate_id: str
    version: int
    position: int
    fingerprint: bytes

    @classmethod
    def of(cls, event: RecordedEvent) -> "Receipt":
        """The receipt of the command whose last event this is."""
        return cls(event.aggregate_id, event.version, event.position, event.command_fingerprint)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Nothing was written: the command took effect before."""

    receipt: Receipt


Outcome = Committed | WrongVersion | Duplicate


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Selects events: those that pass every condition. None, or an empty set, is no condition."""

    tenant_id: str | None = None
    event_types: frozenset[str] = frozenset()
    aggregate_types: frozenset[str] = frozenset()
    aggregate_ids: frozenset[str] = frozenset()
    correlation_ids: frozenset[str] = frozenset()


EVERYTHING = EventFilter()


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of the log.

    Args:
        records: those that the filter selects, in log order.
        position: everything up to here is in `records` or was filtered out.
        digest: of the whole log up to `position`.
    """

    records: list[bytes]
    position: int
    digest: bytes


@dataclass(slots=True)
class History:
    """One aggregate's past: a snapshot, if there is a fitting one, and records after it.

    At most MAX_PAGE_EVENTS records; if there are as many, `read_aggregate` has the rest.
    """

    snapshot: Snapshot | None = None
    records: list[bytes] = field(default_factory=list)


class OutcomeUnknown(Exception):
    """Whether a commit took effect cannot be told. Only a restart, which reads the log, can."""


class EventLog(Protocol):
    """See the module's description.

    Every method may raise `shared.errors.Unavailable` (LOG_UNAVAILABLE) when the store does not
    answer, and `shared.errors.DataLoss` (LOG_CORRUPT) when it answers nonsense.
    """

    @property
    def is_exclusive(self) -> bool:
        """Whether nobody else can append, so that what one writer knows of it stays true."""
        ...

    @property
    def head(self) -> Head:
        """The newest durable event that this process knows of."""
        ...

    async def newest(self) -> Head:
        """The newest durable event, whoever appended it; `head` is at least there from now on."""
        ...

    async def append(self, commits: Sequence[Commit]) -> list[Outcome]:
        """Appends the commits in one durable transaction; an outcome for each, in order.

        One that fails, by its version or as a duplicate, fails alone; but so do later ones in the
        same call for the same aggregate, since they were decided on top of it: they get
        `WrongVersion`.

        Raises:
            shared.errors.Exhausted: DISK_FULL; nothing was written.
            OutcomeUnknown: it may or may not have been written.
        """
        ...

    async def copy(self, records: Sequence[bytes], digest: bytes = b"") -> None:
        """Appends the next records of another log, byte for byte, positions included.

        Args:
            records: what follows this log's head there.
            digest: of the other log up to the last of them; empty: not known.

        Raises:
            shared.errors.DataLoss: LOG_DIVERGED: they do not follow this log's head, or do not lead
                to that digest; nothing was written.
        """
        ...

    async def read(
        self,
        after: int,
        limit: int = MAX_PAGE_EVENTS,
        event_filter: EventFilter = EVERYTHING,
        until: int | None = None,
    ) -> Page:
        """The next page after a position: at most `limit` records, about 1 MiB.

        With `until`, none beyond that position, which is not before `after`.

        May end early, even empty, where a filter selects little; `position` says how far it got.
        """
        ...

    async def read_aggregate(
        self,
        key: AggregateKey,
        after_version: int = 0,
        until_position: int | None = None,
        limit: int = MAX_PAGE_EVENTS,
    ) -> list[bytes]:
        """The next at most `limit` records of an aggregate, by version."""
        ...

    async def load(self, schemas: Mapping[AggregateKey, bytes]) -> dict[AggregateKey, History]:
        """Where to begin with each aggregate, given the schema its snapshot has to be of."""
        ...

    async def receipts(self, commands: Iterable[CommandKey]) -> dict[CommandKey, Receipt]:
        """The receipts of those commands that took effect."""
        ...

    async def snapshots(
        self, after: AggregateKey | None = None, limit: int = MAX_PAGE_SNAPSHOTS
    ) -> dict[AggregateKey, Snapshot]:
        """The next at most `limit` snapshots, ordered by `place_of` their aggregates."""
        ...

    async def keep(self, snapshots: Mapping[AggregateKey, Snapshot]) -> None:
        """Keeps snapshots of another log of which this one is a copy, instead of any it has."""
        ...

    async def position_at(self, time: int) -> int:
        """The position of the last event recorded at or before a time; 0: there is none."""
        ...

    async def digest_at(self, position: int) -> bytes | None:
        """The digest of the log up to a position; None beyond the head."""
        ...

    async def event_time(self, after: int) -> int | None:
        """When the first event after a position was recorded; None if there is none."""
        ...

    async def wait(self, after: int) -> None:
        """Returns once the head is beyond a position. To be bounded by the caller."""
        ...

    async def close(self) -> None:
        """Finishes what has begun and closes the store."""
        ...


class HeadSignal:
    """The head, and whoever waits for it to move."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self._changes = Changes()

    def move(self, head: Head) -> None:
        """Sets the head and wakes everyone."""
        self.head = head
        self._changes.notify()

    async def wait(self, after: int) -> None:
        """Returns once the head is beyond a position."""
        while self.head.position <= after:
            await self._changes.next()


def place_of(key: AggregateKey) -> tuple[str, str, str]:
    """By which aggregates are ordered where all of them are listed."""
    return key.aggregate_id, key.aggregate_type, key.tenant_id


def chain(digest: bytes, record: bytes) -> bytes:
    """The digest of the log one record further."""
    return hashlib.sha256(digest + record).digest()


def stamp(event: RecordedEvent, position: int, time: int) -> bytes:
    """Gives an event its place in the log, and returns the record to be stored."""
    event.position = position
    event.occurred_at.seconds, microseconds = divmod(time, MICROSECONDS)
    event.occurred_at.nanos = microseconds * 1000
    return event.SerializeToString(deterministic=True)


def time_of(event: RecordedEvent) -> int:
    """When the event was recorded, in microseconds."""
    return time_of_timestamp(event.occurred_at)


def time_of_timestamp(moment: Timestamp) -> int:
    """A protobuf timestamp in microseconds."""
    return moment.seconds * MICROSECONDS + moment.nanos // 1000


def timestamp_of(time: int) -> Timestamp:
    """A time of the log as a protobuf timestamp."""
    seconds, microseconds = divmod(time, MICROSECONDS)
    return Timestamp(seconds=seconds, nanos=microseconds * 1000)
