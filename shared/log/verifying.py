"""What has to hold of a log, in whichever store it is: looked at event by event, from the first.

What finds an event by something other than its position is the store's own, and so is how that is
verified.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message

from shared.aggregates.aggregate import Aggregate
from shared.log.folds import Folds
from shared.log.log import EMPTY_DIGEST, MICROSECONDS, AggregateKey, chain, time_of
from shared.verification import Find
from tidemark.v1.event_pb2 import RecordedEvent


class Walked(NamedTuple):
    """An event that was walked over.

    Args:
        position: where it stands.
        event: what stands there.
        key: its aggregate.
        state: of that after the event, until the next step; None: the events do not lead to one.
    """

    position: int
    event: RecordedEvent
    key: AggregateKey
    state: Message | None


class Walk:
    """One walk over a log, from its first event to its last.

    Args:
        aggregates: the kinds that can be folded, by name.
        find: told what does not hold.
    """

    def __init__(self, aggregates: Mapping[str, Aggregate[Any]], find: Find) -> None:
        self.position = 0
        """Of the last event walked over, or skipped."""
        self.folds = Folds(aggregates, find)
        self._find = find
        self._digest = EMPTY_DIGEST
        self._time = 0

    def over(self, records: Sequence[bytes], first: int, digest: bytes) -> Iterator[Walked]:
        """Verifies the next records, and gives those that are events.

        Args:
            records: of consecutive positions.
            first: position of the first one.
            digest: of the log up to the last one, as it is stored.
        """
        last = first + len(records) - 1
        self._verify_chain(records, first, last, digest)
        # From what is stored, right or wrong: so a finding is told once, where it is.
        self.skip(last, digest)
        for position, record in enumerate(records, first):
            try:
                event = RecordedEvent.FromString(record)
            except DecodeError:
                self._find(f"Position {position}: what is stored is no event")
                continue
            yield self._verified(position, event, len(record))

    def skip(self, position: int, digest: bytes) -> None:
        """Goes on after a piece that cannot be read.

        Args:
            position: of its last event.
            digest: of the log up to there, as it is stored.
        """
        self.position = position
        self._digest = digest

    def _verify_chain(self, records: Sequence[bytes], first: int, last: int, digest: bytes) -> None:
        if first <= self.position:
            self._find(f"Position {first}: the events before reach up to {self.position} already")
        computed = self._digest
        for record in records:
            computed = chain(computed, record)
        if computed == digest:
            return
        if first > self.position + 1:
            self._find(f"{places(self.position + 1, first - 1)}: missing")
        else:
            self._find(
                f"{places(first, last)}: the digest that is stored there is not that of the log up"
                " to there"
            )

    def _verified(self, position: int, event: RecordedEvent, size: int) -> Walked:
        if event.position != position:
            self._find(f"Position {position}: the event says that it stands at {event.position}")
        time = time_of(event)
        if time <= self._time:
            self._find(
                f"Position {position}: the event was recorded at {_moment(time)}, which is not"
                f" after the one before it, {_moment(self._time)}"
            )
        self._time = time
        key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
        return Walked(position, event, key, self.folds.fold(key, position, event, size))


def places(first: int, last: int) -> str:
    """Where a finding is, for people."""
    return f"Position {first}" if first == last else f"Positions {first} to {last}"


def _moment(time: int) -> str:
    try:
        return datetime.fromtimestamp(time / MICROSECONDS, UTC).isoformat()
    except (OverflowError, ValueError):
        return f"{time} µs"
