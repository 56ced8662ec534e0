"""Invariant 9, of what commands were refused with, or only judged: true at a moment of the call.

What is true is said by the service's own rules; `tests/domain` holds those by themselves.
"""

from collections.abc import Iterator, Sequence

import grpc
from google.protobuf.message import Message

from shared.aggregates.aggregate import pack
from shared.errors import TidemarkError
from shared.log.log import AggregateKey, CommandKey
from tests.history.commands import (
    Commands,
    Effect,
    command_id_of,
    context_of,
    decided,
    target_of,
)
from tests.history.on_receipts import same_content
from tests.history.recorded import PASSING, Call, Failure
from tests.history.timeline import say, say_message
from tests.history.violation import Violation
from tidemark.v1.command_pb2 import CommandReceipt


def refusals_are_true(commands: Commands) -> Iterator[Violation]:
    """9: a refusal was true at a moment between question and answer; so was a validation."""
    for call in commands.calls:
        match call.answer:
            case Failure(code=code) if code in PASSING:
                continue
            case Failure(reason="COMMAND_ID_REUSED"):
                yield from _judge_reuse(commands, call)
            case Failure(reason=reason):
                yield from _judge(commands, call, reason)
            case CommandReceipt() if context_of(call).validate_only:
                yield from _judge(commands, call, "what it would do")
            case _:
                continue


def _effect_of(commands: Commands, call: Call) -> Effect | None:
    """What the log has under the id of a call, if that is looked up."""
    command_id = command_id_of(call)
    if not command_id or context_of(call).validate_only:
        return None
    return commands.effects.get(CommandKey(call.tenant_id, command_id))


def _judge_reuse(commands: Commands, call: Call) -> Iterator[Violation]:
    effect = _effect_of(commands, call)
    refused = f"{say_message(call.request)} of {call.client} was refused as another command under"
    if effect is None:
        yield Violation(9, f"{refused} an id of which the log has nothing")
    elif effect.sent > call.ended:
        sentence = f"{refused} the id of {say(effect.events[0])}, which was not asked for yet"
        yield Violation(9, sentence, effect.positions)
    elif effect.causes and same_content(call, effect):
        sentence = f"{refused} the id of {say(effect.events[0])}, and it was the same command"
        yield Violation(9, sentence, effect.positions)


def _judge(commands: Commands, call: Call, answer: str) -> Iterator[Violation]:
    answered = f"{say_message(call.request)} of {call.client} was answered with {answer}"
    key = target_of(call)
    # What somebody had been told of, it rests on; what nobody had asked for, it does not.
    earliest = commands.told.before(call.invoked).position
    latest = max(commands.visible_by(call.ended), earliest)
    if effect := _effect_of(commands, call):
        if effect.positions[0] <= earliest:
            sentence = f"{answered}, after it had caused {say(effect.events[0])}"
            yield Violation(9, sentence, effect.positions)
            return
        latest = min(latest, effect.positions[0] - 1)
    first, last = (commands.timeline.version_at(key, each) for each in (earliest, latest))
    if not any(_is_true(commands, key, version, call) for version in range(first, last + 1)):
        sentence = f"{answered}, which was true of {key.aggregate_type} {key.aggregate_id} at no"
        yield Violation(9, f"{sentence} moment of that call")


def _is_true(commands: Commands, key: AggregateKey, version: int, call: Call) -> bool:
    """Whether the answer to a command is the right one at a version of its aggregate."""
    answer = call.answer
    context = context_of(call)
    if context.HasField("expected_version") and context.expected_version != version:
        return isinstance(answer, Failure) and (
            (answer.code, answer.reason, answer.metadata.get("actual_version"))
            == (grpc.StatusCode.ABORTED, "WRONG_VERSION", str(version))
        )
    try:
        payloads = decided(commands.timeline, key, version, call.request)
    except TidemarkError as error:
        return isinstance(answer, Failure) and (
            (answer.code.value[0], answer.reason) == (error.code, error.reason)
        )
    return isinstance(answer, CommandReceipt) and _shows(answer, version, payloads)


def _shows(receipt: CommandReceipt, version: int, payloads: Sequence[Message]) -> bool:
    """Whether it is the receipt of a command that would cause these payloads, and has not."""
    return (
        (receipt.position, receipt.version) == (0, version + len(payloads))
        and [event.payload for event in receipt.events] == [pack(each) for each in payloads]
        and [event.version for event in receipt.events]
        == list(range(version + 1, receipt.version + 1))
    )
