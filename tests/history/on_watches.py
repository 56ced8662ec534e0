"""Invariants of watches: 8, 10 and 11."""

from collections.abc import Iterator
from typing import Any

import grpc

from shared.log.log import AggregateKey
from tests.history.moments import Span, is_deleted, may_be_absent
from tests.history.queries import VisibleBy
from tests.history.recorded import Failure, History, Watch, Watching
from tests.history.timeline import Timeline
from tests.history.violation import Violation


def watches_move_forward(
    history: History, timeline: Timeline, visible_by: VisibleBy
) -> Iterator[Violation]:
    """8 and 10: a watch shows what was so, never what is older than it has shown or was asked for.

    A deletion is the last that it shows; what is gone is not found.
    """
    for watch in history.watches:
        kind = "ship" if "ship_id" in watch.request.DESCRIPTOR.fields_by_name else "user"
        key = AggregateKey(watch.tenant_id, kind, getattr(watch.request, f"{kind}_id"))
        for connection in watch.connections:
            yield from _judge(watch, connection, key, timeline)
            yield from _judge_end(watch, connection, key, timeline, visible_by)


def _judge(
    watch: Watch, connection: Watching, key: AggregateKey, timeline: Timeline
) -> Iterator[Violation]:
    position = connection.min_position
    is_last = False
    for number, (_, response) in enumerate(connection.responses):
        shown: Any = response
        state = getattr(shown, key.aggregate_type)
        what = f"{watch.client} was shown version {state.version} of {key.aggregate_type}"
        what = f"{what} {key.aggregate_id}, as of {shown.position}"
        where = (shown.position,)
        if is_last:
            yield Violation(8, f"{what}, after it had been deleted", where)
        if shown.position < position:
            invariant = 10 if position == connection.min_position else 8
            yield Violation(invariant, f"{what}, after {position}", (shown.position, position))
        if shown.position > timeline.head:
            return
        if state != timeline.state_at(key, shown.position):
            yield Violation(8, f"{what}, which was not so", where)
        is_last = is_deleted(state)
        if is_last and number == 0:
            yield Violation(8, f"{what}, and it was deleted", where)
        position = shown.position


def _judge_end(
    watch: Watch,
    connection: Watching,
    key: AggregateKey,
    timeline: Timeline,
    visible_by: VisibleBy,
) -> Iterator[Violation]:
    """10: what is not found was not there."""
    if connection.end is None:
        return
    time, failure = connection.end
    if not isinstance(failure, Failure) or failure.code is not grpc.StatusCode.NOT_FOUND:
        return
    least = connection.min_position
    heads = Span(least, max(least, visible_by(time)))
    if not may_be_absent(timeline, key, heads):
        sentence = f"{watch.client} was told that there is no {key.aggregate_type}"
        yield Violation(10, f"{sentence} {key.aggregate_id}, which was there")
