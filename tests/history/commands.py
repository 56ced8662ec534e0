"""The commands of a history: who sent which, and which of them the log has."""

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from command_service.aggregates import RULES
from command_service.aggregates.rules import Rules
from shared.aggregates.aggregate import pack
from shared.errors import TidemarkError
from shared.log.log import AggregateKey, CommandKey
from tests.history.recorded import Call, History, Unknown
from tests.history.timeline import Timeline, key_of
from tests.history.told import Told
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt
from tidemark.v1.event_pb2 import RecordedEvent

RULES_OF: dict[str, Rules[Any]] = {
    command.DESCRIPTOR.full_name: rules for rules in RULES for command in rules.commands
}

AnyCommand = TypeVar("AnyCommand", bound=Message)


@dataclass(frozen=True, slots=True)
class Effect:
    """What the log has under one command_id.

    Args:
        key: whose, and which.
        events: all of them.
        attempts: every call that asked for it under that id; if its client gave none, the one that
            was told of that id, or a call without an answer that can be what made it happen.
        causes: those of the attempts of which one was executed: the one that was not told that it
            was a repetition, or else those without an answer. Only such as cause these events.
    """

    key: CommandKey
    events: Sequence[RecordedEvent]
    attempts: Sequence[Call]
    causes: Sequence[Call]

    @property
    def positions(self) -> tuple[int, ...]:
        """Of its events."""
        return tuple(event.position for event in self.events)

    @property
    def sent(self) -> float:
        """The earliest that it can have been asked for."""
        return min((call.invoked for call in self.causes), default=float("-inf"))


class Commands:
    """The calls of a history that are commands, as the invariants ask for them."""

    def __init__(self, history: History, timeline: Timeline) -> None:
        self.timeline = timeline
        self.told = Told(history)
        self.calls = [call for call in history.calls if is_command(call)]
        self.attempts: defaultdict[CommandKey, list[Call]] = defaultdict(list)
        """By the id that the client gave, in its usual spelling."""
        self.receipts: list[tuple[Call, CommandReceipt]] = []
        self.effects: dict[CommandKey, Effect] = {}
        anonymous: list[Call] = []
        for call in self.calls:
            if context_of(call).validate_only:
                continue
            if command_id := command_id_of(call):
                self.attempts[CommandKey(call.tenant_id, command_id)].append(call)
            else:
                anonymous.append(call)
            if isinstance(call.answer, CommandReceipt):
                self.receipts.append((call, call.answer))
        self._find_effects(anonymous)
        sent = [self.effects[command_of(event)].sent for event in timeline.events]
        self._sent = list(accumulate(sent, max))

    def _find_effects(self, anonymous: Sequence[Call]) -> None:
        acknowledged: defaultdict[CommandKey, list[Call]] = defaultdict(list)
        unanswered = _Unanswered(self.timeline, self.told)
        for call in sorted(anonymous, key=lambda call: call.invoked):
            if isinstance(call.answer, CommandReceipt):
                acknowledged[CommandKey(call.tenant_id, call.answer.command_id)].append(call)
            elif isinstance(call.answer, Unknown):
                unanswered.add(call)
        for key, events in self.timeline.by_command.items():
            attempts = self.attempts.get(key) or acknowledged.get(key) or unanswered.explain(events)
            first = [call for call in attempts if _is_first(call)]
            possible = first or [call for call in attempts if isinstance(call.answer, Unknown)]
            causes = [call for call in possible if _causes(self.timeline, call, events)]
            self.effects[key] = Effect(key, events, attempts, causes)

    def visible_by(self, time: float) -> int:
        """The last position that anybody can have seen by then: the next was not asked for yet."""
        index = bisect_right(self._sent, time)
        return self.timeline.positions[index - 1] if index else 0


class _Unanswered:
    """Commands without a command_id that were not answered: each may explain one effect."""

    def __init__(self, timeline: Timeline, told: Told) -> None:
        self._timeline = timeline
        self._told = told
        self._calls: defaultdict[AggregateKey, dict[bytes, deque[Call]]] = defaultdict(dict)
        """By what they are for and by what they say; those that say the same, as they were sent."""

    def add(self, call: Call) -> None:
        """Adds one that was sent later than the others."""
        content = call.request.DESCRIPTOR.full_name.encode()
        content += call.request.SerializeToString(deterministic=True)
        self._calls[target_of(call)].setdefault(content, deque()).append(call)

    def explain(self, events: Sequence[RecordedEvent]) -> list[Call]:
        """Takes out the first that can be what made these events happen."""
        key = key_of(events[0])
        # Who creates something may leave its id to the service.
        for target in (key, key._replace(aggregate_id="")):
            for content, calls in self._calls[target].items():
                is_before = self._told.before(calls[0].invoked).position < events[0].position
                if is_before and _causes(self._timeline, calls[0], events):
                    call = calls.popleft()
                    if not calls:
                        del self._calls[target][content]
                    return [call]
        return []


def is_command(call: Call) -> bool:
    """Whether a call is one, rather than a query."""
    return call.request.DESCRIPTOR.full_name in RULES_OF


def context_of(call: Call) -> CommandContext:
    """How the command was to be executed."""
    context: CommandContext = call.request.context  # type: ignore[attr-defined]  # every command has it
    return context


def command_id_of(call: Call) -> str:
    """The id that the client gave, in its usual spelling; empty: none."""
    command_id = context_of(call).command_id
    return str(UUID(command_id)) if command_id else ""


def target_of(call: Call) -> AggregateKey:
    """The aggregate that the command is for; without an id if it asked for a new one."""
    aggregate = RULES_OF[call.request.DESCRIPTOR.full_name].aggregate
    return AggregateKey(call.tenant_id, aggregate.name, getattr(call.request, aggregate.id_field))


def command_of(event: RecordedEvent) -> CommandKey:
    """The command that caused an event."""
    return CommandKey(event.tenant_id, event.causation_id)


def bare(command: AnyCommand) -> AnyCommand:
    """The command without its context, as `decide` sees it."""
    copy = type(command)()
    copy.CopyFrom(command)
    copy.ClearField("context")
    return copy


def decided(
    timeline: Timeline, key: AggregateKey, version: int, command: Message
) -> Sequence[Message]:
    """The payloads that a command causes of an aggregate at a version.

    Raises:
        TidemarkError: the rules refuse it.
    """
    rules = RULES_OF[command.DESCRIPTOR.full_name]
    return rules.decide(timeline.state(key, version), bare(command))


def _is_first(call: Call) -> bool:
    return isinstance(call.answer, CommandReceipt) and not call.answer.duplicate


def _causes(timeline: Timeline, call: Call, events: Sequence[RecordedEvent]) -> bool:
    """Whether the command, decided where these events are, causes just them."""
    key = key_of(events[0])
    target = target_of(call)
    context = context_of(call)
    version = events[0].version - 1
    correlation_id = context.correlation_id or events[0].causation_id
    if any(key_of(each) != key or each.correlation_id != correlation_id for each in events):
        return False
    if target != key and target != key._replace(aggregate_id=""):
        return False
    if context.HasField("expected_version") and context.expected_version != version:
        return False
    try:
        caused = decided(timeline, key, version, call.request)
    except TidemarkError:
        return False
    return [pack(payload) for payload in caused] == [event.payload for event in events]
