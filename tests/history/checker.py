"""Decides from a history whether every promise was kept.

The invariants, by number:

1. Every acknowledged event is in the log for ever, byte for byte, at its position.
2. A refused command wrote nothing; one of unknown outcome appears once or not at all, whole.
3. An aggregate's versions are 1, 2, 3, …
4. The events of one command are contiguous.
5. If command A was answered before B was sent, A's position is below B's.
6. No event becomes visible below a position that a reader has passed.
7. A subscription delivers exactly the log after its start, filtered.
8. A projection at a position is the fold of the log up to it; a rebuild changes nothing.
9. One command_id has at most one effect and one receipt; a refusal was true when it was given.
10. A query shows everything up to its min_position; with as_of exactly the log up to that moment.
11. A tenant's answers hold only that tenant's data.
12. Every prefix of the log obeys the domain.
13. The digest chain verifies, in the log and in every replica.
14. After the last fault everything is back to normal, unattended, within seconds.

In time it is linear in the history's length, but for sorting and looking up positions.
"""

from collections.abc import Iterator
from itertools import chain

from tests.history.on_commands import (
    Commands,
    acknowledged_events_are_there,
    commands_have_one_effect,
    effects_were_asked_for,
    positions_follow_time,
)
from tests.history.on_log import (
    commands_are_whole,
    copies_verify,
    positions_increase,
    the_domain_is_obeyed,
    versions_have_no_gap,
)
from tests.history.on_queries import answers_are_true, views_equal_the_fold
from tests.history.on_readers import (
    deliveries_are_the_log,
    replays_are_the_log,
    watches_move_forward,
)
from tests.history.recorded import History
from tests.history.timeline import Timeline
from tests.history.violation import Violation


def check(history: History) -> list[Violation]:
    """Every promise that was not kept; the first is the one to look at first."""
    timeline = Timeline(history.log.records)
    if disorder := list(positions_increase(timeline)):
        return disorder
    commands = Commands(history, timeline)
    return list(
        chain(
            acknowledged_events_are_there(commands),
            commands_have_one_effect(commands),
            versions_have_no_gap(timeline),
            the_domain_is_obeyed(timeline),
            commands_are_whole(timeline),
            effects_were_asked_for(commands),
            positions_follow_time(commands),
            deliveries_are_the_log(history, timeline),
            replays_are_the_log(history, timeline),
            answers_are_true(history, timeline),
            watches_move_forward(history, timeline),
            views_equal_the_fold(history, timeline),
            copies_verify(history, timeline),
            _recovered(history),
        )
    )


def _recovered(history: History) -> Iterator[Violation]:
    """14: see above."""
    recovery = history.recovery
    if recovery.seconds > recovery.limit:
        sentence = f"It took {recovery.seconds:.1f} s to recover, and {recovery.limit:.0f} s are"
        yield Violation(14, f"{sentence} allowed")
    for ailment in recovery.ailments:
        yield Violation(14, ailment)
