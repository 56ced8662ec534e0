"""Invariants of commands and their answers: 1, 2, 5 and 9."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from command_service.aggregates import RULES
from command_service.aggregates.rules import Rules
from shared.errors import TidemarkError
from shared.log.log import AggregateKey, CommandKey
from tests.history.recorded import Call, Failure, History
from tests.history.timeline import Timeline, key_of, say, say_message
from tests.history.violation import Violation
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt
from tidemark.v1.event_pb2 import RecordedEvent

RULES_OF: dict[str, Rules[Any]] = {
    command.DESCRIPTOR.full_name: rules for rules in RULES for command in rules.commands
}
JUDGED = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
}


class Commands:
    """The calls of a history that are commands, as the invariants ask for them."""

    def __init__(self, history: History, timeline: Timeline) -> None:
        self.timeline = timeline
        self.calls = [
            call for call in history.calls if call.request.DESCRIPTOR.full_name in RULES_OF
        ]
        self.receipts = [
            (call, call.answer)
            for call in self.calls
            if isinstance(call.answer, CommandReceipt) and not context_of(call).validate_only
        ]
        self.by_id: defaultdict[CommandKey, list[Call]] = defaultdict(list)
        for call in self.calls:
            if command_id := context_of(call).command_id:
                self.by_id[CommandKey(call.tenant_id, command_id)].append(call)
        self.known = _KnownPositions(history)


class _KnownPositions:
    """The newest position that anybody had been told of at a time."""

    def __init__(self, history: History) -> None:
        told = [
            (call.ended, position)
            for call in history.calls
            if (position := getattr(call.answer, "position", 0))
        ]
        told.sort()
        self._times = [time for time, _ in told]
        self._positions: list[int] = []
        newest = 0
        for _, position in told:
            newest = max(newest, position)
            self._positions.append(newest)

    def before(self, time: float) -> int:
        """The newest position in an answer that had come by then."""
        index = bisect_left(self._times, time)
        return self._positions[index - 1] if index else 0


def context_of(call: Call) -> CommandContext:
    """How the command was to be executed."""
    context: CommandContext = call.request.context  # type: ignore[attr-defined]  # every command has it
    return context


def target_of(call: Call) -> AggregateKey:
    """The aggregate that the command is for; without an id if it asked for a new one."""
    rules = RULES_OF[call.request.DESCRIPTOR.full_name]
    aggregate_id = getattr(call.request, rules.aggregate.id_field)
    return AggregateKey(call.tenant_id, rules.aggregate.name, aggregate_id)


def acknowledged_events_are_there(commands: Commands) -> Iterator[Violation]:
    """1: what was acknowledged is in the log, at its position, and is what was asked for."""
    for call, receipt in commands.receipts:
        event = commands.timeline.at(receipt.position)
        if event is None:
            there = "nothing"
        elif (event.tenant_id, event.causation_id) != (call.tenant_id, receipt.command_id):
            there = f"{say(event)} of command {event.causation_id}"
        elif (event.aggregate_id, event.version) != (receipt.aggregate_id, receipt.version):
            there = f"{say(event)}, which is not version {receipt.version}"
        else:
            continue
        sentence = (
            f"Command {receipt.command_id} of {call.client} was acknowledged at position"
            f" {receipt.position}, where the log has {there}"
        )
        yield Violation(1, sentence, (receipt.position,))


def effects_were_asked_for(commands: Commands) -> Iterator[Violation]:
    """2: what was rejected wrote nothing; what is in the log was asked for, and is there whole."""
    receipts = {(call.tenant_id, receipt.command_id): call for call, receipt in commands.receipts}
    anonymous = _Anonymous(commands)
    for key, events in commands.timeline.by_command.items():
        attempts = commands.by_id.get(key, [])
        call = receipts.get((key.tenant_id, key.command_id))
        positions = tuple(event.position for event in events)
        if attempts and all(isinstance(each.answer, Failure) for each in attempts):
            answer = attempts[0].answer.reason  # type: ignore[union-attr]  # a failure
            sentence = f"Command {key.command_id} was answered with {answer}, and yet there is"
            yield Violation(2, f"{sentence} {say(events[0])}", positions)
        elif not attempts and call is None and not anonymous.explain(events):
            sentence = f"Nobody asked for {say(events[0])}, of command {key.command_id}"
            yield Violation(2, sentence, positions)
        candidates = attempts or ([call] if call else [])
        if candidates and not any(_causes(commands.timeline, each, events) for each in candidates):
            sentence = f"{say_message(candidates[0].request)} was not what made {say(events[0])}"
            yield Violation(2, f"{sentence} happen, or not in whole", positions)


class _Anonymous:
    """Commands without a command_id that were not answered: each may explain one effect."""

    def __init__(self, commands: Commands) -> None:
        self._timeline = commands.timeline
        self._unexplained: defaultdict[AggregateKey, list[Call]] = defaultdict(list)
        for call in commands.calls:
            context = context_of(call)
            is_open = not isinstance(call.answer, CommandReceipt | Failure)
            if is_open and not context.command_id and not context.validate_only:
                self._unexplained[target_of(call)].append(call)

    def explain(self, events: Sequence[RecordedEvent]) -> bool:
        """Whether such a command causes these events."""
        calls = self._unexplained[key_of(events[0])]
        for number, call in enumerate(calls):
            if _causes(self._timeline, call, events):
                del calls[number]
                return True
        return False


def _causes(timeline: Timeline, call: Call, events: Sequence[RecordedEvent]) -> bool:
    """Whether the command, decided where these events are, causes just them."""
    rules = RULES_OF[call.request.DESCRIPTOR.full_name]
    key = key_of(events[0])
    target = target_of(call)
    if any(key_of(event) != key for event in events):
        return False
    if target.aggregate_type != key.aggregate_type or target.aggregate_id not in {
        "",
        key.aggregate_id,
    }:
        return False
    try:
        caused = rules.decide(timeline.state(key, events[0].version - 1), _bare(call.request))
    except TidemarkError:
        return False
    return list(caused) == [rules.aggregate.unpack(event) for event in events]


def positions_follow_time(commands: Commands) -> Iterator[Violation]:
    """5: what was sent after an answer has a higher position than it."""
    wrote = sorted(
        ((call, receipt) for call, receipt in commands.receipts if not receipt.duplicate),
        key=lambda each: each[0].ended,
    )
    ended = [call.ended for call, _ in wrote]
    highest: list[CommandReceipt] = []
    for _, receipt in wrote:
        is_higher = not highest or receipt.position > highest[-1].position
        highest.append(receipt if is_higher else highest[-1])
    for call, receipt in wrote:
        index = bisect_left(ended, call.invoked)
        if index and highest[index - 1].position >= receipt.position:
            earlier = highest[index - 1]
            sentence = (
                f"Command {receipt.command_id} was sent after {earlier.command_id} was answered"
                f" with position {earlier.position}, and got {receipt.position}"
            )
            yield Violation(5, sentence, (earlier.position, receipt.position))


def commands_have_one_effect(commands: Commands) -> Iterator[Violation]:
    """9: under one command_id there is one effect and one receipt; refusals are true."""
    for key, events in commands.timeline.by_command.items():
        positions = tuple(event.position for event in events)
        calls = commands.by_id.get(key)
        if calls is None or len(events) == 1:
            continue
        # Two effects of one command look like one of two events; only deciding tells them apart.
        if not any(_causes(commands.timeline, call, events) for call in calls):
            sentence = f"Command {key.command_id} took effect more than once: at {positions}"
            yield Violation(9, sentence, positions)
    first: dict[tuple[str, str], CommandReceipt] = {}
    for call, receipt in commands.receipts:
        name = call.tenant_id, receipt.command_id
        if name not in first:
            first[name] = receipt
            continue
        other = first[name]
        places = (other.position, receipt.position)
        if (other.aggregate_id, other.version, other.position) != (
            receipt.aggregate_id,
            receipt.version,
            receipt.position,
        ):
            sentence = f"Command {receipt.command_id} has two receipts, at {places}"
            yield Violation(9, sentence, places)
        elif not other.duplicate and not receipt.duplicate:
            sentence = f"Command {receipt.command_id} was twice said to have been executed just now"
            yield Violation(9, sentence, places)
        elif other.duplicate and not receipt.duplicate:
            first[name] = receipt
    for call in commands.calls:
        if isinstance(call.answer, Failure) and call.answer.code in JUDGED:
            yield from _judge_refusal(commands, call, call.answer)


def _judge_refusal(commands: Commands, call: Call, answer: Failure) -> Iterator[Violation]:
    """A refusal is true of the log at some moment between question and answer."""
    timeline = commands.timeline
    key = target_of(call)
    context = context_of(call)
    if answer.reason == "COMMAND_ID_REUSED":
        others = timeline.by_command.get(CommandKey(call.tenant_id, context.command_id), [])
        if not others:
            sentence = f"Command {context.command_id} was refused as a repetition of another"
            yield Violation(9, f"{sentence}, of which the log has nothing")
        return
    earliest = timeline.version_at(key, commands.known.before(call.invoked))
    # What was durable by the time of the answer is not known, but it cannot be later than what
    # was asked for by then.
    latest = len(timeline.moments.get(key, ()))
    for version in range(earliest, latest + 1):
        if _refuses(timeline, key, version, call.request, context, answer):
            return
        if version > earliest and _was_asked_later(commands, key, version, call.ended):
            break
    sentence = (
        f"{say_message(call.request)} of {call.client} was refused with {answer.reason}, which was"
        f" true of {key.aggregate_type} {key.aggregate_id} at no moment of that call"
    )
    yield Violation(9, sentence, ())


def _was_asked_later(commands: Commands, key: AggregateKey, version: int, time: float) -> bool:
    """Whether the command behind a version was sent only after a time."""
    event = commands.timeline.at(commands.timeline.moments[key][version - 1].position)
    attempts = commands.by_id.get(CommandKey(key.tenant_id, event.causation_id if event else ""))
    return bool(attempts) and min(call.invoked for call in attempts or ()) > time


def _refuses(
    timeline: Timeline,
    key: AggregateKey,
    version: int,
    command: Message,
    context: CommandContext,
    answer: Failure,
) -> bool:
    if context.HasField("expected_version") and context.expected_version != version:
        return answer.reason == "WRONG_VERSION" and answer.metadata.get("actual_version") in {
            None,
            str(version),
        }
    try:
        RULES_OF[command.DESCRIPTOR.full_name].decide(timeline.state(key, version), _bare(command))
    except TidemarkError as error:
        return error.reason == answer.reason
    return False


def _bare(command: Message) -> Message:
    """The command without its context, as `decide` sees it."""
    bare = type(command)()
    bare.CopyFrom(command)
    bare.ClearField("context")
    return bare
