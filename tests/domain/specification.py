"""Given events, when a command, then events, or then a refusal.

After Emmett's `DeciderSpecification`: a rule is told in the words of the domain, and the state in
between is nobody's business.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytest
from google.protobuf.message import Message

from command_service.aggregates.rules import Rules
from shared.aggregates.aggregate import Aggregate, pack
from shared.errors import TidemarkError
from shared.log.log import MICROSECONDS, stamp
from tidemark.v1.event_pb2 import RecordedEvent

State = TypeVar("State", bound=Message)

FIRST_TIME = 1_750_000_000 * MICROSECONDS
"""When version 1 of every history in these tests is recorded; each next one, a second later."""


@dataclass(frozen=True)
class Specification(Generic[State]):
    """What the rules of one kind of aggregate are specified with."""

    rules: Rules[State]

    def given(self, *events: Message) -> "Given[State]":
        """What has happened to the aggregate; nothing: it does not exist."""
        return Given(self.rules, fold(self.rules.aggregate, history(self.rules.aggregate, *events)))


@dataclass(frozen=True)
class Given(Generic[State]):
    """The aggregate to which that has happened."""

    rules: Rules[State]
    state: State | None

    def when(self, command: Message) -> "When[State]":
        """What it is asked to do."""
        return When(self.rules, self.state, command)


@dataclass(frozen=True)
class When(Generic[State]):
    """The command, not decided yet."""

    rules: Rules[State]
    state: State | None
    command: Message

    def then(self, first: Message, /, *others: Message) -> None:
        """It happens: exactly these events."""
        assert list(self._decide()) == [first, *others]

    def then_refused(
        self, error: type[TidemarkError], reason: str, message: str, /, **metadata: str
    ) -> None:
        """Nothing happens, for exactly this reason."""
        with pytest.raises(TidemarkError) as refusal:
            self._decide()
        told = refusal.value
        assert (type(told), told.reason, told.message) == (error, reason, message)
        assert told.metadata == metadata

    def _decide(self) -> Iterable[Message]:
        state, command = deepcopy(self.state), deepcopy(self.command)
        try:
            return self.rules.decide(self.state, self.command)
        finally:
            assert (self.state, self.command) == (state, command), "decide has changed something"


def record(aggregate: Aggregate[Any], version: int, payload: Message) -> RecordedEvent:
    """The event as an aggregate's log would have it, if that held nothing else."""
    event = RecordedEvent(
        aggregate_type=aggregate.name,
        aggregate_id=f"{aggregate.name}-1",
        version=version,
        payload=pack(payload),
    )
    stamp(event, position=version, time=FIRST_TIME + (version - 1) * MICROSECONDS)
    return event


def history(aggregate: Aggregate[Any], *payloads: Message) -> list[RecordedEvent]:
    """The events recorded one after another, from version 1."""
    return [record(aggregate, version, payload) for version, payload in enumerate(payloads, 1)]


def fold(aggregate: Aggregate[State], events: Iterable[RecordedEvent]) -> State | None:
    """The state that the events led to."""
    state = None
    for event in events:
        state = aggregate.fold(state, event)
    return state
