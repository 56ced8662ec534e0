"""Invariants 8, 10 and 11, of queries for one aggregate: its state, or that there is none."""

from collections.abc import Iterator
from typing import Any

import grpc

from shared.log.log import AggregateKey
from tests.history.commands import is_command
from tests.history.moments import is_deleted, may_be_absent, may_have_no_history, span
from tests.history.queries import VisibleBy, aggregate_in, answered, as_of_in, heads_of
from tests.history.recorded import PASSING, Call, Failure, History
from tests.history.timeline import Timeline, say_message
from tests.history.violation import Violation
from tidemark.v1.query_pb2 import ReplayRequest
from tidemark.v1.ship_pb2 import GetShipRequest
from tidemark.v1.user_pb2 import GetUserRequest

NO_ANSWER = PASSING | {
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}
"""Of a failure that says nothing of what is there."""


def states_are_true(
    history: History, timeline: Timeline, visible_by: VisibleBy
) -> Iterator[Violation]:
    """8, 10 and 11: a state was so at the answer's position, which is of the moment asked for."""
    for call, answer in answered(history, timeline):
        key = aggregate_in(call)
        if key is None or not isinstance(call.request, GetShipRequest | GetUserRequest):
            continue
        state, position = getattr(answer, key.aggregate_type), answer.position
        as_of = as_of_in(call)
        moment = span(timeline, key, as_of, heads_of(call, visible_by)) if as_of else None
        sentence = f"{say_message(call.request)} of {call.tenant_id} was answered with"
        sentence = f"{sentence} {say_message(state)}, as of {position}"
        if as_of and (moment is None or not moment.first <= position <= moment.last):
            yield Violation(10, f"{sentence}, which is another moment", (position,))
        elif state != timeline.state_at(key, position):
            number = 11 if _is_of_another_tenant(timeline, key, state, position) else 8
            number = 10 if as_of and number == 8 else number
            yield Violation(number, f"{sentence}, which was not so", (position,))
        elif is_deleted(state) and not as_of:
            yield Violation(8, f"{sentence}, and it was deleted", (position,))


def _is_of_another_tenant(timeline: Timeline, key: AggregateKey, state: Any, position: int) -> bool:
    return any(
        other[1:] == key[1:] and other != key and timeline.state_at(other, position) == state
        for other in timeline.moments
    )


def absences_are_true(
    history: History, timeline: Timeline, visible_by: VisibleBy
) -> Iterator[Violation]:
    """10: what is not found was not there; and no question of the clients' is wrong."""
    for call in history.calls:
        failure = call.answer
        if is_command(call) or not isinstance(failure, Failure) or failure.code in NO_ANSWER:
            continue
        is_absence = failure.code is grpc.StatusCode.NOT_FOUND
        if not is_absence or not _may_be_absent(call, timeline, visible_by):
            sentence = f"{say_message(call.request)} of {call.tenant_id} was answered with"
            yield Violation(10, f"{sentence} {failure.reason}, which was not so")


def _may_be_absent(call: Call, timeline: Timeline, visible_by: VisibleBy) -> bool:
    key = aggregate_in(call)
    if key is None:
        return False
    as_of = as_of_in(call)
    heads = heads_of(call, visible_by)
    # Of what was deleted there is still the past.
    if as_of is not None or isinstance(call.request, ReplayRequest):
        return may_have_no_history(timeline, key, as_of, heads)
    return may_be_absent(timeline, key, heads)
