"""Invariants of the log alone: 3, 4 and 13; and the one that the others rest on."""

from collections.abc import Iterator
from itertools import pairwise

from shared.log.log import AggregateKey
from shared.security.tenants import EVERY_TENANT
from tests.history.recorded import History, LogCopy
from tests.history.timeline import Timeline, key_of, say
from tests.history.violation import Violation
from tidemark.v1.event_pb2 import EventFilter


def positions_increase(timeline: Timeline) -> Iterator[Violation]:
    """6: the log is given out in the order of its positions. All else is judged by that."""
    for earlier, later in pairwise(timeline.events):
        if later.position <= earlier.position:
            sentence = f"{say(later)} comes after {say(earlier)}"
            yield Violation(6, sentence, (earlier.position, later.position))


def versions_have_no_gap(timeline: Timeline) -> Iterator[Violation]:
    """3: an aggregate's versions are 1, 2, 3, …; so nobody else can have won one of them."""
    versions: dict[AggregateKey, int] = {}
    for event in timeline.events:
        key = key_of(event)
        expected = versions.get(key, 0) + 1
        if event.version != expected:
            sentence = f"{say(event)} follows version {expected - 1}"
            yield Violation(3, sentence, (event.position,))
        versions[key] = event.version


def commands_are_whole(timeline: Timeline) -> Iterator[Violation]:
    """4: the events of one command are contiguous, and of one aggregate."""
    index = {position: number for number, position in enumerate(timeline.positions)}
    for key, events in timeline.by_command.items():
        positions = tuple(event.position for event in events)
        numbers = [index[position] for position in positions]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            sentence = f"The events of command {key.command_id} are at {positions}, with others"
            yield Violation(4, f"{sentence} between them", positions)
        elif len({key_of(event) for event in events}) > 1:
            sentence = f"The events of command {key.command_id} are of several aggregates"
            yield Violation(4, sentence, positions)


def copies_verify(history: History, timeline: Timeline) -> Iterator[Violation]:
    """13: the digest chain verifies up to the head, in the log and in every replica."""
    for copy in (history.log, *history.replicas):
        yield from _verify(copy, timeline)


def _verify(copy: LogCopy, timeline: Timeline) -> Iterator[Violation]:
    if len(copy.records) != len(timeline.records):
        count = f"{len(copy.records)} events instead of {len(timeline.records)}"
        yield Violation(13, f"The copy of {copy.server} has {count}")
    for number, (record, original) in enumerate(zip(copy.records, timeline.records, strict=False)):
        if record != original:
            position = timeline.positions[number]
            sentence = f"The copy of {copy.server} has another event at {position} than the log"
            yield Violation(13, sentence, (position,))
            return
    computed = timeline.digests[min(len(copy.records), len(timeline.records))]
    if copy.digest != computed:
        sentence = f"The digest of {copy.server} is not that of its events"
        yield Violation(13, sentence, (timeline.head,))


def digests_are_the_logs(history: History, timeline: Timeline) -> Iterator[Violation]:
    """13: whoever follows the whole log is given its digest, at every checkpoint."""
    for subscription in history.subscriptions:
        is_whole = (subscription.tenant_id, subscription.event_filter) == (
            EVERY_TENANT,
            EventFilter(),
        )
        for delivery in (each for connection in subscription.connections for each in connection):
            position = delivery.position
            expected = timeline.digests[timeline.count(position)] if is_whole else b""
            if delivery.digest != expected:
                given = "another digest than the log's" if delivery.digest else "no digest"
                sentence = f"{subscription.client} was given {given} at {position}"
                yield Violation(13, sentence, (position,))
