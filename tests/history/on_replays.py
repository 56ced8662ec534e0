"""Invariants of replays: 1, 7, 8 and 11."""

from collections.abc import Iterator

from shared.aggregates.aggregate import pack
from shared.log.log import AggregateKey
from tests.history.moments import span
from tests.history.queries import VisibleBy, as_of_in, heads_of
from tests.history.recorded import Call, History, Replayed
from tests.history.timeline import Timeline, key_of, say, say_message
from tests.history.violation import Violation
from tidemark.v1.query_pb2 import ReplayRequest, ReplayResponse


def replays_are_the_log(
    history: History, timeline: Timeline, visible_by: VisibleBy
) -> Iterator[Violation]:
    """1, 7, 8 and 11: a replay is an aggregate's events in order, each with the state after it."""
    for call in history.calls:
        if isinstance(call.answer, Replayed) and isinstance(call.request, ReplayRequest):
            responses = call.answer.responses
            yield from _judge_extent(timeline, call, call.request, responses, visible_by)
            for response in responses:
                yield from _judge(timeline, call, call.request, response)


def _key(call: Call, request: ReplayRequest) -> AggregateKey:
    return AggregateKey(call.tenant_id, request.aggregate_type, request.aggregate_id)


def _judge_extent(
    timeline: Timeline,
    call: Call,
    request: ReplayRequest,
    responses: tuple[ReplayResponse, ...],
    visible_by: VisibleBy,
) -> Iterator[Violation]:
    """7: it goes from the version that was asked for to that of the moment, by one each time."""
    key = _key(call, request)
    moment = span(timeline, key, as_of_in(call), heads_of(call, visible_by))
    versions = [response.event.version for response in responses]
    after = request.after_version
    replayed = f"{say_message(request)} of {call.tenant_id} showed versions {versions}"
    if versions != list(range(after + 1, after + 1 + len(versions))):
        yield Violation(7, f"{replayed}, which do not follow one another")
        return
    if moment is None:
        yield Violation(7, f"{replayed}, of a moment that never came")
        return
    # Without an event there was nothing to be replayed, which is said in another way.
    least = max(timeline.version_at(key, moment.first), 1)
    most = timeline.version_at(key, moment.last)
    if not max(after, least) <= after + len(versions) <= max(after, most):
        yield Violation(7, f"{replayed}, and its version was {least} then, or up to {most}")


def _judge(
    timeline: Timeline, call: Call, request: ReplayRequest, response: ReplayResponse
) -> Iterator[Violation]:
    event = response.event
    where = (event.position,)
    key = _key(call, request)
    replayed = f"{call.client} of {call.tenant_id} replayed {say(event)}"
    if event.tenant_id != call.tenant_id:
        yield Violation(11, replayed, where)
    elif event != timeline.at(event.position):
        yield Violation(1, f"{replayed}, which is not the log's there", where)
    elif key_of(event) != key:
        yield Violation(7, f"{replayed} instead of {key.aggregate_type} {key.aggregate_id}", where)
    elif request.include_state and not _is_state(timeline, key, response):
        yield Violation(8, f"{replayed}, with another state after it than the log says", where)


def _is_state(timeline: Timeline, key: AggregateKey, response: ReplayResponse) -> bool:
    """Whether a state is the one after an event; maps have no order on the wire."""
    state = timeline.state(key, response.event.version)
    if response.state == pack(state):
        return True
    shown = type(state)()
    return bool(response.state.Unpack(shown)) and shown == state
