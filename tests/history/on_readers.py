"""Invariants of subscriptions, replays and watches: 1, 6, 7 and 11."""

from collections.abc import Iterator
from itertools import pairwise

from shared.log.log import AggregateKey
from tests.history.recorded import Delivery, History, Replayed, Subscription
from tests.history.timeline import Timeline, say
from tests.history.violation import Violation
from tidemark.v1.event_pb2 import EventFilter, RecordedEvent
from tidemark.v1.query_pb2 import ReplayRequest

EVERY_TENANT = "*"


def deliveries_are_the_log(history: History, timeline: Timeline) -> Iterator[Violation]:
    """1, 6, 7 and 11: a subscriber gets exactly the log after its start, filtered."""
    for subscription in history.subscriptions:
        selected = [event.position for event in timeline.events if _selects(subscription, event)]
        yield from _follow(subscription, timeline, selected)


def _follow(
    subscription: Subscription, timeline: Timeline, selected: list[int]
) -> Iterator[Violation]:
    position = subscription.after_position
    expected = iter([each for each in selected if each > position])
    following = next(expected, None)
    for delivery in (each for connection in subscription.connections for each in connection):
        if delivery.position < position:
            sentence = f"The checkpoint of {subscription.client} went back from {position} to"
            yield Violation(7, f"{sentence} {delivery.position}", (delivery.position, position))
            return
        for record in delivery.events:
            event = RecordedEvent.FromString(record)
            if found := _foreign(subscription, timeline, record, event):
                yield found
                return
            if event.position != following:
                yield _out_of_order(subscription, event, position, following)
                return
            following = next(expected, None)
        if following is not None and following <= delivery.position:
            yield _missed(subscription, timeline, following, delivery)
            return
        position = delivery.position


def _foreign(
    subscription: Subscription, timeline: Timeline, record: bytes, event: RecordedEvent
) -> Violation | None:
    """What should not have come in any order."""
    who, where = subscription.client, (event.position,)
    if subscription.tenant_id not in {EVERY_TENANT, event.tenant_id}:
        return Violation(11, f"{who} of {subscription.tenant_id} was sent {say(event)}", where)
    if record != timeline.record_at(event.position):
        return Violation(1, f"{who} was sent {say(event)}, which is not the log's there", where)
    if not _selects(subscription, event):
        return Violation(7, f"{who} was sent {say(event)}, which its filter leaves out", where)
    return None


def _out_of_order(
    subscription: Subscription, event: RecordedEvent, position: int, following: int | None
) -> Violation:
    what = "again" if event.position <= position else "too early"
    sentence = f"{subscription.client} was sent {say(event)} {what}: it was to get {following}"
    return Violation(7, sentence, (event.position,))


def _missed(
    subscription: Subscription, timeline: Timeline, position: int, delivery: Delivery
) -> Violation:
    """6, if the event was put there later than its reader passed; else 7."""
    event = timeline.at(position)
    what = say(event) if event else "nothing"
    if delivery.head_position == delivery.position:
        sentence = f"{what} became visible after {subscription.client} had passed it, at the head"
        return Violation(6, f"{sentence} {delivery.position}", (position, delivery.position))
    sentence = f"{subscription.client} came to {delivery.position} without {what}"
    return Violation(7, sentence, (position, delivery.position))


def _selects(subscription: Subscription, event: RecordedEvent) -> bool:
    wanted: EventFilter = subscription.event_filter
    return (
        subscription.tenant_id in {EVERY_TENANT, event.tenant_id}
        and _passes(wanted.event_types, event.payload.type_url.rpartition("/")[2])
        and _passes(wanted.aggregate_types, event.aggregate_type)
        and _passes(wanted.aggregate_ids, event.aggregate_id)
        and _passes(wanted.correlation_ids, event.correlation_id)
    )


def _passes(wanted: object, value: str) -> bool:
    return not wanted or value in wanted  # type: ignore[operator]  # a repeated field


def replays_are_the_log(history: History, timeline: Timeline) -> Iterator[Violation]:
    """1, 7, 8 and 11: a replay is an aggregate's events in order, each with the state after it."""
    for call in history.calls:
        request, answer = call.request, call.answer
        if not isinstance(answer, Replayed) or not isinstance(request, ReplayRequest):
            continue
        key = AggregateKey(call.tenant_id, request.aggregate_type, request.aggregate_id)
        versions = [response.event.version for response in answer.responses]
        for earlier, later in pairwise([request.after_version, *versions]):
            if later != earlier + 1:
                sentence = f"A replay of {request.aggregate_id} went from version {earlier} to"
                yield Violation(7, f"{sentence} {later}")
        for response in answer.responses:
            event = response.event
            where = (event.position,)
            if event.tenant_id != call.tenant_id:
                yield Violation(
                    11, f"{call.client} of {call.tenant_id} replayed {say(event)}", where
                )
            elif event != timeline.at(event.position):
                sentence = f"{call.client} replayed {say(event)}, which is not the log's there"
                yield Violation(1, sentence, where)
            elif request.include_state:
                state = timeline.state(key, event.version)
                if response.state.value != state.SerializeToString(deterministic=True):
                    shown = type(state)()
                    response.state.Unpack(shown)
                    if shown != state:
                        sentence = f"A replay shows another state after {say(event)} than the log"
                        yield Violation(8, sentence, where)


def watches_move_forward(history: History, timeline: Timeline) -> Iterator[Violation]:
    """8: each state that a watch shows was true at its position; and never an older one later."""
    for watch in history.watches:
        kind = "ship" if "ship_id" in watch.request.DESCRIPTOR.fields_by_name else "user"
        key = AggregateKey(watch.tenant_id, kind, getattr(watch.request, f"{kind}_id"))
        for connection in watch.connections:
            version = 0
            for _, response in connection:
                position = response.position  # type: ignore[attr-defined]  # every answer has one
                state = getattr(response, kind)
                if state != timeline.state_at(key, position):
                    sentence = f"{watch.client} was shown a {kind} that it was not at {position}"
                    yield Violation(8, sentence, (position,))
                if state.version < version:
                    sentence = f"{watch.client} was shown version {state.version} after {version}"
                    yield Violation(8, sentence, (position,))
                version = state.version
