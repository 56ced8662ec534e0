"""A log, folded once, so that it can be asked what was true at any of its positions."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message

from command_service.aggregates import RULES
from shared.aggregates.aggregate import Aggregate, CorruptHistory, UnknownEvent
from shared.log.log import EMPTY_DIGEST, AggregateKey, CommandKey, chain, time_of
from shared.personal.sealing import Keys
from tests.services.readable import readable
from tidemark.v1.event_pb2 import RecordedEvent

AGGREGATES: dict[str, Aggregate[Any]] = {rules.aggregate.name: rules.aggregate for rules in RULES}


NO_KEYS: Keys = {}


class Moment(NamedTuple):
    """An aggregate after one of its events."""

    position: int
    state: bytes


class Timeline:
    """See the module's description.

    Folding stops, per aggregate, at the first event that cannot follow; `broken` has it.

    Args:
        records: the log, as it is stored.
        keys: with which what is personal in it was encrypted.
    """

    def __init__(self, records: Sequence[bytes], keys: Keys = NO_KEYS) -> None:
        self.records = records
        self.events = [readable(RecordedEvent.FromString(record), keys) for record in records]
        self.positions = [event.position for event in self.events]
        self.times = [time_of(event) for event in self.events]
        self.digests = [EMPTY_DIGEST]
        self.moments: defaultdict[AggregateKey, list[Moment]] = defaultdict(list)
        self.by_command: defaultdict[CommandKey, list[RecordedEvent]] = defaultdict(list)
        self.broken: list[tuple[RecordedEvent, str]] = []
        states: dict[AggregateKey, Any] = {}
        for record, event in zip(records, self.events, strict=True):
            self.digests.append(chain(self.digests[-1], record))
            self.by_command[CommandKey(event.tenant_id, event.causation_id)].append(event)
            self._fold(states, event)

    def _fold(self, states: dict[AggregateKey, Any], event: RecordedEvent) -> None:
        key = key_of(event)
        try:
            states[key] = AGGREGATES[event.aggregate_type].fold(states.get(key), event)
        except (CorruptHistory, UnknownEvent, KeyError) as error:
            self.broken.append((event, str(error)))
            return
        state = states[key].SerializeToString(deterministic=True)
        self.moments[key].append(Moment(event.position, state))

    @property
    def head(self) -> int:
        """The last position."""
        return self.positions[-1] if self.positions else 0

    def count(self, position: int) -> int:
        """How many events there are up to a position."""
        return bisect_right(self.positions, position)

    def at(self, position: int) -> RecordedEvent | None:
        """The event at a position."""
        index = self.count(position) - 1
        return self.events[index] if index >= 0 and self.positions[index] == position else None

    def record_at(self, position: int) -> bytes | None:
        """The same, as it is stored."""
        index = self.count(position) - 1
        return self.records[index] if index >= 0 and self.positions[index] == position else None

    def is_folded(self, event: RecordedEvent) -> bool:
        """Whether the event is in its aggregate's states, as all are that can follow."""
        moments = self.moments.get(key_of(event), ())
        return 0 < event.version <= len(moments) and (
            moments[event.version - 1].position == event.position
        )

    def position_at(self, time: int) -> int:
        """The last position recorded at or before a time; 0: there is none."""
        index = bisect_right(self.times, time)
        return self.positions[index - 1] if index else 0

    def version_at(self, key: AggregateKey, position: int) -> int:
        """An aggregate's version at a position; 0: it did not exist."""
        return bisect_right(self.moments.get(key, ()), position, key=lambda each: each.position)

    def state_at(self, key: AggregateKey, position: int) -> Any:
        """An aggregate's state at a position; None: it did not exist."""
        return self.state(key, self.version_at(key, position))

    def state(self, key: AggregateKey, version: int) -> Any:
        """An aggregate's state at a version; None: it did not exist."""
        moments = self.moments.get(key, ())
        if not 0 < version <= len(moments):
            return None
        return AGGREGATES[key.aggregate_type].state.FromString(moments[version - 1].state)


def payload_of(event: RecordedEvent) -> Any:
    """What happened, if it is an event that is folded."""
    return AGGREGATES[event.aggregate_type].unpack(event)


def key_of(event: RecordedEvent) -> AggregateKey:
    """Whose event it is."""
    return AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)


def say(event: RecordedEvent) -> str:
    """An event, for people."""
    what = event.payload.type_url.rpartition(".")[2]
    return (
        f"{what} of {event.aggregate_type} {event.aggregate_id} of {event.tenant_id}"
        f" (version {event.version}, position {event.position})"
    )


def say_message(message: Message) -> str:
    """A message on one line, for people."""
    return f"{message.DESCRIPTOR.name} {{{' '.join(str(message).split())}}}"
