"""Invariants of subscriptions: 1, 6, 7 and 11."""

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest

from google.protobuf.timestamp_pb2 import Timestamp

from shared.log.log import time_of_timestamp
from shared.security.tenants import EVERY_TENANT
from tests.history.recorded import Delivery, History, Subscription
from tests.history.timeline import Timeline, say
from tests.history.violation import Violation
from tidemark.v1.event_pb2 import EventFilter, RecordedEvent


def deliveries_are_the_log(history: History, timeline: Timeline) -> Iterator[Violation]:
    """1, 6, 7 and 11: a subscriber gets exactly the log after its start, filtered."""
    for subscription in history.subscriptions:
        yield from _follow(subscription, timeline)


def _follow(subscription: Subscription, timeline: Timeline) -> Iterator[Violation]:
    deliveries = list(chain.from_iterable(subscription.connections))
    position = _start(subscription, deliveries[0], timeline) if deliveries else 0
    for delivery in deliveries:
        if delivery.position < position or delivery.head_position < delivery.position:
            sentence = f"{subscription.client} came from {position} to {delivery.position}, of a"
            sentence = f"{sentence} log that was said to end at {delivery.head_position}"
            yield Violation(7, sentence, (delivery.position, position))
            return
        passed = slice(timeline.count(position), timeline.count(delivery.position))
        selected = [event for event in timeline.events[passed] if _selects(subscription, event)]
        if found := _first_difference(subscription, timeline, delivery, selected):
            yield found
            return
        position = delivery.position


def _start(subscription: Subscription, first: Delivery, timeline: Timeline) -> int:
    """A position behind which it began: nothing up to there is to come."""
    if subscription.from_time is not None:
        before = timeline.position_at(time_of_timestamp(subscription.from_time) - 1)
        return min(before, first.position)
    if not subscription.from_head:
        return subscription.after_position
    # Where its server's log ended then is said by nothing but what came.
    start = first.position
    if first.events:
        start = RecordedEvent.FromString(first.events[0]).position - 1
    return max(start, subscription.after_position)


def _first_difference(
    subscription: Subscription,
    timeline: Timeline,
    delivery: Delivery,
    selected: Sequence[RecordedEvent],
) -> Violation | None:
    """What is wrong with the events of one response, which were to be those selected."""
    for record, wanted in zip_longest(delivery.events, selected):
        if wanted is not None and record == timeline.record_at(wanted.position):
            continue
        event = RecordedEvent.FromString(record) if record is not None else None
        if event is not None and (found := _foreign(subscription, timeline, record, event)):
            return found
        if wanted is not None and (event is None or event.position > wanted.position):
            return _missed(subscription, delivery, wanted)
        if event is not None:
            sentence = f"{subscription.client} was sent {say(event)} again, or too late"
            return Violation(7, sentence, (event.position,))
    return None


def _foreign(
    subscription: Subscription, timeline: Timeline, record: bytes | None, event: RecordedEvent
) -> Violation | None:
    """What should not have come in any order."""
    who, where = subscription.client, (event.position,)
    if subscription.tenant_id not in {EVERY_TENANT, event.tenant_id}:
        return Violation(11, f"{who} of {subscription.tenant_id} was sent {say(event)}", where)
    if record != timeline.record_at(event.position):
        return Violation(1, f"{who} was sent {say(event)}, which is not the log's there", where)
    if not _selects(subscription, event):
        return Violation(7, f"{who} was sent {say(event)}, which it did not ask for", where)
    return None


def _missed(subscription: Subscription, delivery: Delivery, event: RecordedEvent) -> Violation:
    """6, if the event was put there later than its reader passed; else 7."""
    where = (event.position, delivery.position)
    if delivery.head_position == delivery.position:
        sentence = f"{say(event)} became visible after {subscription.client} had passed it, at the"
        return Violation(6, f"{sentence} head {delivery.position}", where)
    sentence = f"{subscription.client} came to {delivery.position} without {say(event)}"
    return Violation(7, sentence, where)


def _selects(subscription: Subscription, event: RecordedEvent) -> bool:
    wanted: EventFilter = subscription.event_filter
    return (
        subscription.tenant_id in {EVERY_TENANT, event.tenant_id}
        and _passes(wanted.event_types, event.payload.type_url.rpartition("/")[2])
        and _passes(wanted.aggregate_types, event.aggregate_type)
        and _passes(wanted.aggregate_ids, event.aggregate_id)
        and _passes(wanted.correlation_ids, event.correlation_id)
        and not _is_before(event.occurred_at, subscription.from_time)
    )


def _passes(wanted: object, value: str) -> bool:
    return not wanted or value in wanted  # type: ignore[operator]  # a repeated field


def _is_before(time: Timestamp, start: Timestamp | None) -> bool:
    return start is not None and (time.seconds, time.nanos) < (start.seconds, start.nanos)
