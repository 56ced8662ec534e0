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

Refusals are judged by the services' own `decide`, and states by their own `evolve`: here it is
about moments. That these two are right, `tests/domain` holds by themselves; and that every event
could happen where it did, and changed what it says, `tests.history.on_domain` by rules of its own.

In time it is linear in the history's length, but for sorting and looking up positions: an answer
costs what it shows, a subscription the events that its checkpoints passed, and a refusal the
versions that its aggregate may have had during the call.
"""

from itertools import chain

from tests.history.commands import Commands
from tests.history.on_domain import the_domain_is_obeyed
from tests.history.on_effects import commands_have_one_effect, effects_were_asked_for
from tests.history.on_lists import lists_are_true, views_equal_the_fold
from tests.history.on_log import (
    commands_are_whole,
    copies_verify,
    digests_are_the_logs,
    positions_increase,
    versions_have_no_gap,
)
from tests.history.on_positions import (
    answers_come_up_to_min_position,
    positions_follow_time,
    readers_stay_within_the_log,
)
from tests.history.on_receipts import acknowledged_events_are_there, commands_have_one_receipt
from tests.history.on_recovery import commands_came_to_an_end, recovered
from tests.history.on_refusals import refusals_are_true
from tests.history.on_replays import replays_are_the_log
from tests.history.on_states import absences_are_true, states_are_true
from tests.history.on_subscriptions import deliveries_are_the_log
from tests.history.on_watches import watches_move_forward
from tests.history.recorded import History
from tests.history.timeline import Timeline
from tests.history.violation import Violation


def check(history: History) -> list[Violation]:
    """Every promise that was not kept; the first is the one to look at first."""
    timeline = Timeline(history.log.records, history.keys)
    if disorder := list(positions_increase(timeline)):
        return disorder
    commands = Commands(history, timeline)
    return list(
        chain(
            acknowledged_events_are_there(commands),
            commands_have_one_effect(commands),
            commands_have_one_receipt(commands),
            versions_have_no_gap(timeline),
            the_domain_is_obeyed(timeline),
            commands_are_whole(timeline),
            effects_were_asked_for(commands),
            positions_follow_time(commands),
            readers_stay_within_the_log(commands),
            refusals_are_true(commands),
            deliveries_are_the_log(history, timeline),
            replays_are_the_log(history, timeline, commands.visible_by),
            answers_come_up_to_min_position(history, timeline),
            states_are_true(history, timeline, commands.visible_by),
            absences_are_true(history, timeline, commands.visible_by),
            watches_move_forward(history, timeline, commands.visible_by),
            lists_are_true(history, timeline),
            views_equal_the_fold(history, timeline),
            copies_verify(history, timeline),
            digests_are_the_logs(history, timeline),
            recovered(history.recovery),
            commands_came_to_an_end(commands),
        )
    )
