"""Invariants of the log alone: 3, 4, 12 and 13."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from shared.log.log import AggregateKey
from tests.history.recorded import History, LogCopy
from tests.history.timeline import AGGREGATES, Timeline, key_of, say
from tests.history.violation import Violation
from tidemark.v1 import ship_pb2, user_pb2
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import Ship
from tidemark.v1.user_pb2 import User

MAX_INT64 = 2**63 - 1
MAX_ITEMS = 1000


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


def the_domain_is_obeyed(timeline: Timeline) -> Iterator[Violation]:
    """12: at every prefix of the log, by rules of this module's own."""
    for broken, reason in timeline.broken:
        yield Violation(12, f"{say(broken)} cannot be there: {reason}", (broken.position,))
    for key, moments in timeline.moments.items():
        before: Any = None
        for version, moment in enumerate(moments, 1):
            event = timeline.events[timeline.count(moment.position) - 1]
            state = timeline.state(key, version)
            if why := _wrong(before, event, state):
                yield Violation(12, f"After {say(event)} {why}", (event.position,))
            before = state


def _wrong(before: Any, event: RecordedEvent, state: Any) -> str:
    payload = AGGREGATES[event.aggregate_type].unpack(event)
    match payload, state:
        case user_pb2.UserCreated() | ship_pb2.ShipRegistered(), _ if before is not None:
            return "what existed was created again"
        case _, User() if before is not None and before.deleted:
            return "something happened to a deleted user"
        case user_pb2.UserBalanceChanged(balance_change=change), User(balance=balance):
            if before.balance + change < 0:
                return f"the balance would be {before.balance + change}"
            if balance != before.balance + change or balance > MAX_INT64:
                return f"the balance {before.balance} changed by {change} is {balance}"
        case user_pb2.UserCreated(), User(balance=balance) if balance < 0:
            return f"the balance is {balance}"
        case ((ship_pb2.CargoLoaded() | ship_pb2.CargoUnloaded()), Ship(cargo=cargo)):
            if before.status != ship_pb2.SHIP_STATUS_DOCKED:
                return "cargo was moved at sea"
            if any(quantity <= 0 for quantity in cargo.values()):
                return f"the cargo is {dict(cargo)}"
            if len(cargo) > MAX_ITEMS:
                return f"there are {len(cargo)} kinds of item aboard"
        case ship_pb2.ShipDeparted(), _ if before.status != ship_pb2.SHIP_STATUS_DOCKED:
            return "a ship departed that was not docked"
        case _:
            pass
    return ""


def copies_verify(history: History, timeline: Timeline) -> Iterator[Violation]:
    """13: the digest chain verifies up to the head, in the log and in every replica."""
    for copy in (history.log, *history.replicas):
        yield from _verify(copy, timeline)
    for subscription in history.subscriptions:
        for delivery in (each for connection in subscription.connections for each in connection):
            expected = timeline.digests[timeline.count(delivery.position)]
            if delivery.digest and delivery.digest != expected:
                sentence = f"{subscription.client} was given a digest that is not the log's at"
                yield Violation(13, f"{sentence} {delivery.position}", (delivery.position,))


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
