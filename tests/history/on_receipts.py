"""Invariants of receipts: 1 and 9."""

from collections.abc import Iterator

from shared.log.log import CommandKey
from tests.history.commands import Commands, Effect, bare, command_id_of, target_of
from tests.history.recorded import Call
from tests.history.timeline import key_of, say, say_message
from tests.history.violation import Violation
from tidemark.v1.command_pb2 import CommandReceipt


def acknowledged_events_are_there(commands: Commands) -> Iterator[Violation]:
    """1: what was acknowledged is in the log, at its position, and is the command's own."""
    for call, receipt in commands.receipts:
        if _is_of_another(commands, call, receipt):
            sentence = f"{say_message(call.request)} of {call.client} was acknowledged with the"
            sentence = f"{sentence} receipt of command {receipt.command_id}"
            yield Violation(1, sentence, (receipt.position,))
        elif found := _found_instead(commands, call, receipt):
            sentence = f"Command {receipt.command_id} of {call.client} was acknowledged at position"
            sentence = f"{sentence} {receipt.position}, where the log has {found}"
            yield Violation(1, sentence, (receipt.position,))


def _is_of_another(commands: Commands, call: Call, receipt: CommandReceipt) -> bool:
    if command_id := command_id_of(call):
        return receipt.command_id != command_id
    return CommandKey(call.tenant_id, receipt.command_id) in commands.attempts


def _found_instead(commands: Commands, call: Call, receipt: CommandReceipt) -> str:
    event = commands.timeline.at(receipt.position)
    if event is None:
        return "nothing"
    if (event.tenant_id, event.causation_id) != (call.tenant_id, receipt.command_id):
        return f"{say(event)} of command {event.causation_id}"
    if (event.aggregate_id, event.version) != (receipt.aggregate_id, receipt.version):
        return f"{say(event)}, which is not version {receipt.version} of {receipt.aggregate_id}"
    target = target_of(call)
    if key_of(event) != target._replace(aggregate_id=target.aggregate_id or event.aggregate_id):
        return f"{say(event)}, which it was not for"
    return ""


def commands_have_one_receipt(commands: Commands) -> Iterator[Violation]:
    """9: under one command_id there is one receipt, for those alone who sent that command."""
    first: dict[CommandKey, CommandReceipt] = {}
    for call, receipt in commands.receipts:
        key = CommandKey(call.tenant_id, receipt.command_id)
        yield from _differs(first.get(key), receipt)
        if key not in first or first[key].duplicate:
            first[key] = receipt
        if receipt.duplicate:
            yield from _judge_repetition(call, commands.effects.get(key))


def _differs(one: CommandReceipt | None, other: CommandReceipt) -> Iterator[Violation]:
    if one is None:
        return
    places = (one.position, other.position)
    if (one.aggregate_id, one.version, one.position) != (
        other.aggregate_id,
        other.version,
        other.position,
    ):
        yield Violation(9, f"Command {one.command_id} has two receipts, at {places}", places)
    elif not one.duplicate and not other.duplicate:
        sentence = f"Command {one.command_id} was twice said to have been executed just now"
        yield Violation(9, sentence, places)


def _judge_repetition(call: Call, effect: Effect | None) -> Iterator[Violation]:
    """Only who sends the same command again is told that it is a repetition."""
    what = f"{say_message(call.request)} of {call.client}"
    if not command_id_of(call):
        yield Violation(9, f"{what}, which has no command_id, was called a repetition")
    elif effect is not None and effect.causes and not same_content(call, effect):
        sentence = f"{what} was answered with the receipt of another command under its id"
        yield Violation(9, sentence, effect.positions)


def same_content(call: Call, effect: Effect) -> bool:
    """Whether a call asks for what took effect, whatever its context."""
    content = bare(call.request)
    return any(bare(cause.request) == content for cause in effect.causes)
