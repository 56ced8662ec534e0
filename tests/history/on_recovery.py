"""Invariant 14: after the last fault everything is back to normal."""

from collections.abc import Iterator

from tests.history.commands import Commands
from tests.history.recorded import PASSING, Failure, Recovery
from tests.history.timeline import say_message
from tests.history.violation import Violation


def recovered(recovery: Recovery) -> Iterator[Violation]:
    """14: unattended, within seconds."""
    if recovery.seconds > recovery.limit:
        sentence = f"It took {recovery.seconds:.1f} s to recover, and {recovery.limit:.0f} s are"
        yield Violation(14, f"{sentence} allowed")
    for ailment in recovery.ailments:
        yield Violation(14, ailment)


def commands_came_to_an_end(commands: Commands) -> Iterator[Violation]:
    """14: whoever insisted was not put off for ever."""
    for key, attempts in commands.attempts.items():
        answers = [call.answer for call in attempts]
        if all(isinstance(each, Failure) and each.code in PASSING for each in answers):
            sentence = f"{say_message(attempts[-1].request)} of {attempts[-1].client} was put off"
            times = "once" if len(answers) == 1 else f"{len(answers)} times"
            yield Violation(
                14, f"{sentence} {times}, and never decided, as command {key.command_id}"
            )
