"""Invariants of queries: 8, 10 and 11."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.message import Message

from shared.aggregates.ship import SHIP
from shared.log.log import AggregateKey, time_of_timestamp
from tests.history.recorded import Call, Failure, History, Pages, Unknown
from tests.history.timeline import AGGREGATES, Timeline, key_of, say_message
from tests.history.violation import Violation
from tidemark.v1.query_pb2 import AsOf
from tidemark.v1.ship_pb2 import (
    CargoLoaded,
    CargoUnloaded,
    GetShipRequest,
    ListPortCargoRequest,
    ListPortCargoResponse,
    ListPortsRequest,
    ListPortsResponse,
    ListShipsRequest,
    ListShipsResponse,
    Port,
    PortCargo,
    ShipDocked,
)
from tidemark.v1.user_pb2 import (
    BalanceChange,
    GetUserRequest,
    ListBalanceChangesRequest,
    ListBalanceChangesResponse,
    ListUsersRequest,
    ListUsersResponse,
    UserBalanceChanged,
)


def answers_are_true(history: History, timeline: Timeline) -> Iterator[Violation]:
    """8 and 10: what one query was answered is the fold of the log at the answer's position."""
    for call in history.calls:
        minimum = getattr(call.request, "min_position", 0)
        if isinstance(call.answer, Failure | Unknown):
            yield from _judge_absence(call, timeline)
            continue
        position = getattr(call.answer, "position", None)
        if position is None or not hasattr(call.request, "min_position"):
            continue
        has_moment = "as_of" in call.request.DESCRIPTOR.fields_by_name and call.request.HasField(
            "as_of"
        )
        if position < minimum and not has_moment:
            sentence = f"{say_message(call.request)} was answered as of {position}"
            yield Violation(10, sentence, (position, minimum))
        yield from _judge(call, position, timeline)


def _judge(call: Call, position: int, timeline: Timeline) -> Iterator[Violation]:
    answer: Any = call.answer
    match call.request:
        case GetShipRequest() | GetUserRequest():
            kind = "ship" if isinstance(call.request, GetShipRequest) else "user"
            yield from _judge_state(call, kind, getattr(answer, kind), position, timeline)
        case ListShipsRequest():
            yield from _judge_page(call, "ship", answer.ships, position, timeline)
        case ListUsersRequest():
            yield from _judge_page(call, "user", answer.users, position, timeline)
        case _:
            pass


def _judge_state(
    call: Call, kind: str, state: Any, position: int, timeline: Timeline
) -> Iterator[Violation]:
    request: Any = call.request
    key = AggregateKey(call.tenant_id, kind, getattr(request, f"{kind}_id"))
    if request.HasField("as_of"):
        expected = _as_of(timeline, key, request.as_of, position)
        if state != expected:
            sentence = f"{say_message(request)} was answered with version {state.version}"
            yield Violation(10, f"{sentence}, which was not so then", (position,))
    elif state != timeline.state_at(key, position):
        number = 11 if _is_of_another(timeline, key, state) else 8
        sentence = f"{say_message(request)} of {call.tenant_id} was answered with"
        sentence = f"{sentence} {say_message(state)}, which was not so at {position}"
        yield Violation(number, sentence, (position,))


def _is_of_another(timeline: Timeline, key: AggregateKey, state: Any) -> bool:
    others = [
        other for other in timeline.moments if other[1:] == key[1:] and other.tenant_id != key[0]
    ]
    return any(state == timeline.state(other, state.version) for other in others)


def _as_of(timeline: Timeline, key: AggregateKey, as_of: AsOf, position: int) -> Any:
    match as_of.WhichOneof("moment"):
        case "version":
            # Beyond the head it means the head, which is where the answer is from.
            version = min(as_of.version, max(timeline.version_at(key, position), 0))
            return timeline.state(key, version)
        case "position":
            return timeline.state_at(key, as_of.position)
        case _:
            moment = timeline.position_at(time_of_timestamp(as_of.time))
            return timeline.state_at(key, min(moment, position))


def _judge_absence(call: Call, timeline: Timeline) -> Iterator[Violation]:
    """10: NOT_FOUND is untrue of what was there at min_position, and of a past that it had."""
    answer: Any = call.answer
    if not isinstance(answer, Failure) or not answer.reason.endswith("_NOT_FOUND"):
        return
    if not isinstance(call.request, GetShipRequest | GetUserRequest):
        return
    kind = "ship" if isinstance(call.request, GetShipRequest) else "user"
    key = AggregateKey(call.tenant_id, kind, getattr(call.request, f"{kind}_id"))
    request = call.request
    position = request.min_position
    if request.HasField("as_of"):
        if request.as_of.WhichOneof("moment") == "position":
            position = request.as_of.position
        elif request.as_of.WhichOneof("moment") == "time":
            # A copy that has not come that far yet answers for its own head.
            moment = timeline.position_at(time_of_timestamp(request.as_of.time))
            position = min(moment, request.min_position)
    state = timeline.state_at(key, position)
    newest = timeline.state_at(key, timeline.head)
    if state is not None and not getattr(newest, "deleted", False):
        sentence = f"{say_message(request)} was answered with {answer.reason}, and yet"
        yield Violation(10, f"{sentence} it was there at {position}", (position,))


def _judge_page(
    call: Call, kind: str, states: Sequence[Any], position: int, timeline: Timeline
) -> Iterator[Violation]:
    ids = [getattr(state, f"{kind}_id") for state in states]
    if ids != sorted(set(ids)):
        yield Violation(8, f"{say_message(call.request)} was answered out of order", (position,))
    for aggregate_id, state in zip(ids, states, strict=True):
        key = AggregateKey(call.tenant_id, kind, aggregate_id)
        if state != timeline.state_at(key, position):
            number = 11 if _is_of_another(timeline, key, state) else 8
            sentence = f"{say_message(call.request)} of {call.tenant_id} lists a {kind}"
            sentence = f"{sentence} {aggregate_id} that it was not at {position}"
            yield Violation(number, sentence, (position,))


def views_equal_the_fold(history: History, timeline: Timeline) -> Iterator[Violation]:
    """8: the lists of every projection are what the log says, and a rebuild changes nothing."""
    oracle = _Oracle(timeline)
    for views in history.views:
        for name, some in (("kept", views.followed), ("rebuilt", views.rebuilt)):
            for pages in some:
                shown = [row for response in pages.responses for row in _rows(response)]
                expected = oracle.rows(pages)
                if shown != expected:
                    sentence = f"{say_message(pages.request)} of {pages.tenant_id} as {name} by"
                    sentence = f"{sentence} {views.server}: {_difference(shown, expected)}"
                    yield Violation(8, sentence, (timeline.head,))
        if len(views.rebuilt) != len(views.followed):
            yield Violation(8, f"{views.server} was not asked the same after its rebuild")


def _difference(shown: Sequence[Message], expected: Sequence[Message]) -> str:
    for number, row in enumerate(shown):
        if number >= len(expected) or row != expected[number]:
            wanted = say_message(expected[number]) if number < len(expected) else "nothing"
            return f"row {number} is {say_message(row)} instead of {wanted}"
    return f"{len(shown)} rows instead of {len(expected)}"


def _rows(response: Message) -> list[Any]:
    match response:
        case ListShipsResponse():
            return list(response.ships)
        case ListUsersResponse():
            return list(response.users)
        case ListPortsResponse():
            return list(response.ports)
        case ListPortCargoResponse():
            return list(response.cargo)
        case ListBalanceChangesResponse():
            return list(response.changes)
        case _:
            raise TypeError(f"No rows in {response.DESCRIPTOR.name}")


class _Oracle:
    """What every list has to say at the head of a log."""

    def __init__(self, timeline: Timeline) -> None:
        self._states: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
        self._ports: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._moved: defaultdict[tuple[str, str], defaultdict[str, PortCargo]] = defaultdict(
            lambda: defaultdict(PortCargo)
        )
        self._changes: defaultdict[AggregateKey, list[BalanceChange]] = defaultdict(list)
        for event in timeline.events:
            self._record(timeline, event)
        for key in sorted(timeline.moments):
            state = timeline.state_at(key, timeline.head)
            self._states[key.tenant_id, key.aggregate_type].append(state)
            if key.aggregate_type == SHIP.name and state.current_port:
                self._ports[key.tenant_id][state.current_port] += 1
                for item, quantity in state.cargo.items():
                    self._moved[key.tenant_id, state.current_port][item].aboard += quantity

    def _record(self, timeline: Timeline, event: Any) -> None:
        key = key_of(event)
        state = timeline.state(key, event.version)
        match AGGREGATES[event.aggregate_type].unpack(event):
            case ShipDocked(port=port):
                self._ports[event.tenant_id].setdefault(port, 0)
            case CargoLoaded(port=port, item=item, quantity=quantity):
                self._moved[event.tenant_id, port][item].loaded += quantity
            case CargoUnloaded(port=port, item=item, quantity=quantity):
                self._moved[event.tenant_id, port][item].unloaded += quantity
            case UserBalanceChanged(balance_change=change) if state is not None:
                self._changes[key].append(
                    BalanceChange(
                        version=event.version,
                        occurred_at=event.occurred_at,
                        balance_change=change,
                        balance=state.balance,
                        correlation_id=event.correlation_id,
                    )
                )

    def rows(self, pages: Pages) -> list[Any]:
        """All rows of a list, in its order."""
        tenant_id = pages.tenant_id
        match pages.request:
            case ListShipsRequest(status=status, port=port):
                return [
                    ship
                    for ship in self._states[tenant_id, "ship"]
                    if (not status or ship.status == status)
                    and (not port or ship.current_port == port)
                ]
            case ListUsersRequest():
                return [user for user in self._states[tenant_id, "user"] if not user.deleted]
            case ListPortsRequest():
                ports = self._ports[tenant_id]
                return [Port(name=name, ships_docked=ports[name]) for name in sorted(ports)]
            case ListPortCargoRequest(port=port):
                moved = self._moved[tenant_id, port]
                for item, cargo in moved.items():
                    cargo.item = item
                return [moved[item] for item in sorted(moved)]
            case ListBalanceChangesRequest(user_id=user_id):
                return self._changes[AggregateKey(tenant_id, "user", user_id)][::-1]
            case _:
                raise TypeError(f"No oracle for {pages.request.DESCRIPTOR.name}")
