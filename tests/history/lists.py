"""What every list has to show, at one position of the log after the other."""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from shared.log.log import AggregateKey
from tests.history.moments import is_deleted
from tests.history.timeline import Timeline, key_of, payload_of
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import (
    CargoLoaded,
    CargoUnloaded,
    ListPortCargoRequest,
    ListPortCargoResponse,
    ListPortsRequest,
    ListPortsResponse,
    ListShipsRequest,
    ListShipsResponse,
    Port,
    PortCargo,
    Ship,
    ShipDeparted,
    ShipDocked,
)
from tidemark.v1.user_pb2 import (
    BalanceChange,
    ListBalanceChangesRequest,
    ListBalanceChangesResponse,
    ListUsersRequest,
    ListUsersResponse,
    User,
    UserBalanceChanged,
)

Row = Ship | User | Port | PortCargo | BalanceChange
Name = str | int
"""What tells the rows of a list apart, and orders them."""

Selection = tuple[str, ...] | tuple[str, str, int]


class Lists:
    """Begins before the first event; `move_to` takes it on.

    An event costs what it changes, and a row what it takes to show it.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._count = 0
        self._versions: dict[AggregateKey, int] = {}
        self._ids: defaultdict[Selection, list[str]] = defaultdict(list)
        """Of ships and of users, in order, by what may select them."""
        self._ports: defaultdict[str, list[str]] = defaultdict(list)
        self._cargo: defaultdict[tuple[str, str], defaultdict[str, PortCargo]] = defaultdict(
            lambda: defaultdict(PortCargo)
        )
        self._changes: defaultdict[AggregateKey, list[BalanceChange]] = defaultdict(list)

    def move_to(self, position: int) -> None:
        """Goes on to a position, which is not before the last."""
        count = self._timeline.count(position)
        for event in self._timeline.events[self._count : count]:
            if self._timeline.is_folded(event):
                self._record(event)
        self._count = count

    def _record(self, event: RecordedEvent) -> None:
        key = key_of(event)
        before, after = (
            self._timeline.state(key, version) for version in (event.version - 1, event.version)
        )
        self._versions[key] = event.version
        self._select(key, _selections(key, before), _selections(key, after))
        match payload_of(event):
            case ShipDocked() | ShipDeparted() as payload:
                self._moor(key.tenant_id, before, -1)
                self._moor(key.tenant_id, after, +1)
                if isinstance(payload, ShipDocked):
                    self._name_port(key.tenant_id, payload.port)
            case CargoLoaded(port=port, item=item, quantity=quantity):
                self._cargo[key.tenant_id, port][item].aboard += quantity
                self._cargo[key.tenant_id, port][item].loaded += quantity
            case CargoUnloaded(port=port, item=item, quantity=quantity):
                self._cargo[key.tenant_id, port][item].aboard -= quantity
                self._cargo[key.tenant_id, port][item].unloaded += quantity
            case UserBalanceChanged(balance_change=change):
                self._changes[key].append(
                    BalanceChange(
                        version=event.version,
                        occurred_at=event.occurred_at,
                        balance_change=change,
                        balance=after.balance,
                        correlation_id=event.correlation_id,
                    )
                )

    def _select(self, key: AggregateKey, before: set[Selection], after: set[Selection]) -> None:
        for selection in before - after:
            ids = self._ids[selection]
            del ids[bisect_left(ids, key.aggregate_id)]
        for selection in after - before:
            insort(self._ids[selection], key.aggregate_id)

    def _moor(self, tenant_id: str, ship: Ship, sign: int) -> None:
        """Counts a ship's cargo in at its port (+1), or out of it (-1)."""
        if ship.current_port:
            for item, quantity in ship.cargo.items():
                self._cargo[tenant_id, ship.current_port][item].aboard += sign * quantity

    def _name_port(self, tenant_id: str, port: str) -> None:
        ports = self._ports[tenant_id]
        place = bisect_left(ports, port)
        if ports[place : place + 1] != [port]:
            ports.insert(place, port)

    def has(self, tenant_id: str, request: Message) -> bool:
        """Whether there is such a list."""
        if not isinstance(request, ListBalanceChangesRequest):
            return True
        key = AggregateKey(tenant_id, "user", request.user_id)
        state = self._state(key)
        return state is not None and not is_deleted(state)

    def rows(self, tenant_id: str, request: Message, after: Name | None = None) -> Iterator[Row]:
        """The rows of a list in their order, after one of that name.

        Args:
            tenant_id: whose list.
            request: which one, and what it selects.
            after: None: from the first.
        """
        match request:
            case ListShipsRequest(status=status, port=port):
                for ship in self._aggregates(_selection(tenant_id, status, port), after):
                    if not status or ship.status == status:
                        yield ship
            case ListUsersRequest():
                yield from self._aggregates((tenant_id, "user"), after)
            case ListPortsRequest():
                for name in _following(self._ports[tenant_id], after):
                    docked = len(self._ids[tenant_id, "port", name])
                    yield Port(name=name, ships_docked=docked)
            case ListPortCargoRequest(port=port):
                cargo = self._cargo[tenant_id, port]
                for item in _following(sorted(cargo), after):
                    row = PortCargo(item=item)
                    row.MergeFrom(cargo[item])
                    # What only passed through is neither there nor was moved there.
                    if row.aboard or row.loaded or row.unloaded:
                        yield row
            case ListBalanceChangesRequest(user_id=user_id):
                changes = self._changes[AggregateKey(tenant_id, "user", user_id)]
                end = len(changes)
                if after is not None:
                    end = bisect_left(changes, after, key=lambda change: change.version)
                yield from (changes[number] for number in range(end - 1, -1, -1))
            case _:
                raise TypeError(f"{request.DESCRIPTOR.name} is no list")

    def _aggregates(self, selection: Selection, after: Name | None) -> Iterator[Any]:
        kind = "user" if selection[1] == "user" else "ship"
        for aggregate_id in _following(self._ids[selection], after):
            yield self._state(AggregateKey(selection[0], kind, aggregate_id))

    def _state(self, key: AggregateKey) -> Any:
        return self._timeline.state(key, self._versions.get(key, 0))


def rows_in(response: Message) -> list[Row]:
    """The rows that a page shows."""
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
            raise TypeError(f"{response.DESCRIPTOR.name} is no page of a list")


def name_of(row: Row) -> Name:
    """What a row is told from others by."""
    match row:
        case Ship():
            return row.ship_id
        case User():
            return row.user_id
        case Port():
            return row.name
        case PortCargo():
            return row.item
        case BalanceChange():
            return row.version


def _selections(key: AggregateKey, state: Any) -> set[Selection]:
    """What selects an aggregate in a state."""
    tenant_id = key.tenant_id
    match state:
        case User(deleted=False):
            return {(tenant_id, "user")}
        case Ship(status=status, current_port=port):
            selections: set[Selection] = {(tenant_id, "ship"), (tenant_id, "status", status)}
            return selections | {(tenant_id, "port", port)} if port else selections
        case _:
            return set()


def _selection(tenant_id: str, status: int, port: str) -> Selection:
    """What selects the ships that a list is of, and perhaps some more."""
    if port:
        return tenant_id, "port", port
    return (tenant_id, "status", status) if status else (tenant_id, "ship")


def _following(names: list[str], after: Name | None) -> Iterator[str]:
    start = bisect_right(names, str(after)) if after is not None else 0
    return (names[number] for number in range(start, len(names)))
