"""Invariants of what anybody was told of the log's positions: 1, 5, 6 and 10."""

from collections.abc import Iterator

from tests.history.commands import Commands
from tests.history.queries import answered, as_of_in
from tests.history.recorded import History
from tests.history.timeline import Timeline, say_message
from tests.history.violation import Violation


def positions_follow_time(commands: Commands) -> Iterator[Violation]:
    """5 and 6: what was sent after an answer is at a higher position than that tells of."""
    for effect in commands.effects.values():
        position = effect.positions[0]
        told = commands.told.before(effect.sent)
        if told.position >= position:
            sentence = f"Command {effect.key.command_id} was sent after {told.client} was told of"
            sentence = f"{sentence} position {told.position}, and took effect at {position}"
            number = 5 if told.is_receipt else 6
            yield Violation(number, sentence, (position, told.position))


def readers_stay_within_the_log(commands: Commands) -> Iterator[Violation]:
    """1: no reader was told of more than the log has; the first time that each was."""
    head = commands.timeline.head
    complained: set[str] = set()
    for told in commands.told.tellings:
        if told.position > head and not told.is_receipt and told.client not in complained:
            complained.add(told.client)
            sentence = f"{told.client} was told of position {told.position}, and the log ends at"
            yield Violation(1, f"{sentence} {head}", (head, told.position))


def answers_come_up_to_min_position(history: History, timeline: Timeline) -> Iterator[Violation]:
    """10: an answer shows everything up to the position that was asked for."""
    for call, answer in answered(history, timeline):
        if as_of_in(call) is None and answer.position < call.request.min_position:  # type: ignore[attr-defined]  # every query has it
            sentence = f"{say_message(call.request)} was answered as of {answer.position}"
            yield Violation(10, sentence, (answer.position,))
