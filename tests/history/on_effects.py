"""Invariants of what commands did to the log: 2 and 9."""

from collections.abc import Iterator

from tests.history.commands import Commands, Effect
from tests.history.recorded import Failure
from tests.history.timeline import say, say_message
from tests.history.violation import Violation
from tidemark.v1.command_pb2 import CommandReceipt


def commands_have_one_effect(commands: Commands) -> Iterator[Violation]:
    """9: what is in the log under one command_id is what one decision causes."""
    for effect in commands.effects.values():
        if _took_effect_again(effect):
            sentence = f"Command {effect.key.command_id} took effect more than once: at"
            yield Violation(9, f"{sentence} {effect.positions}", effect.positions)


def _took_effect_again(effect: Effect) -> bool:
    # Two effects of one command look like one of two events; only deciding tells them apart.
    return len(effect.events) > 1 and bool(effect.attempts) and not effect.causes


def effects_were_asked_for(commands: Commands) -> Iterator[Violation]:
    """2: what was refused wrote nothing; what is in the log was asked for, and is there whole."""
    for effect in commands.effects.values():
        if not effect.causes and not _took_effect_again(effect):
            yield Violation(2, _why_not(effect), effect.positions)


def _why_not(effect: Effect) -> str:
    command_id, event = effect.key.command_id, say(effect.events[0])
    if not effect.attempts:
        return f"Nobody asked for {event}, of command {command_id}"
    first = effect.attempts[0]
    answers = [call.answer for call in effect.attempts if not isinstance(call.answer, Failure)]
    if isinstance(first.answer, Failure) and not answers:
        refused = f"Command {command_id} was answered with {first.answer.reason}"
        return f"{refused}, and yet there is {event}"
    if all(isinstance(each, CommandReceipt) and each.duplicate for each in answers):
        return f"Command {command_id} was never sent but as a repetition, and yet there is {event}"
    return f"{say_message(first.request)} was not what made {event} happen, or not in whole"
