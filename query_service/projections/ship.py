"""Ships as they are, the ports that they dock at, and what is moved there."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable

from query_service.aggregate_queries import get, watch
from query_service.pages import PAGE_CHECKS, Cursor
from query_service.past import Past
from query_service.projection import Projection
from query_service.projector import Projector
from query_service.states import States
from shared.aggregates.ship import SHIP
from shared.call import Call
from shared.checks import check, text
from shared.errors import invalid_field
from shared.sqlite import insert
from tidemark.v1 import ship_pb2
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import (
    CargoLoaded,
    CargoUnloaded,
    GetShipRequest,
    GetShipResponse,
    ListPortCargoRequest,
    ListPortCargoResponse,
    ListPortsRequest,
    ListPortsResponse,
    ListShipsRequest,
    ListShipsResponse,
    Port,
    PortCargo,
    Ship,
    ShipDocked,
    ShipStatus,
    WatchShipRequest,
    WatchShipResponse,
)

SCHEMA = """
CREATE INDEX ships_by_port ON states (tenant_id, port, aggregate_id);
CREATE INDEX ships_by_status ON states (tenant_id, status, aggregate_id);
CREATE TABLE ports (
    tenant_id TEXT NOT NULL,
    port TEXT NOT NULL,
    ships_docked INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, port)
) STRICT, WITHOUT ROWID;
CREATE TABLE port_cargo (
    tenant_id TEXT NOT NULL,
    port TEXT NOT NULL,
    item TEXT NOT NULL,
    aboard INTEGER NOT NULL,
    loaded INTEGER NOT NULL,
    unloaded INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, port, item)
) STRICT, WITHOUT ROWID;
CREATE INDEX port_cargo_gone ON port_cargo (tenant_id)
    WHERE aboard = 0 AND loaded = 0 AND unloaded = 0;
"""


class _Moved:
    """By how much a row of `port_cargo` changes."""

    __slots__ = ("aboard", "loaded", "unloaded")

    def __init__(self) -> None:
        self.aboard = 0
        self.loaded = 0
        self.unloaded = 0


class _Batch:
    """What a batch of events changes, gathered first and written once.

    What is docked, with its cargo, is counted out of its port as it was before the batch, and in as
    it is after it: what happened in between does not matter.
    """

    def __init__(self, ships: States[Ship]) -> None:
        self._ships = ships
        self._newest: dict[tuple[str, str], Ship] = {}
        # By tenant and port, and by tenant, port and item: named tuples would take a tenth of the
        # time.
        self._docked: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._moved: defaultdict[tuple[str, str, str], _Moved] = defaultdict(_Moved)

    def apply(self, event: RecordedEvent) -> None:
        """Gathers what one event changes."""
        tenant_id = event.tenant_id
        tenant_and_id = tenant_id, event.aggregate_id
        if tenant_and_id not in self._newest and (ship := self._ships.get(event)) is not None:
            self._moor(tenant_id, ship, -1)
        self._newest[tenant_and_id], payload = self._ships.fold(event)
        match payload:
            case ShipDocked(port=port):
                # A port is known from then on, though all may have left it.
                self._docked[tenant_id, port] += 0
            case CargoLoaded(port=port, item=item, quantity=quantity):
                self._moved[tenant_id, port, item].loaded += quantity
            case CargoUnloaded(port=port, item=item, quantity=quantity):
                self._moved[tenant_id, port, item].unloaded += quantity

    def _moor(self, tenant_id: str, ship: Ship, sign: int) -> None:
        """Counts a docked ship and its cargo in at its port (+1), or out of it (-1)."""
        if not ship.current_port:
            return
        port = ship.current_port
        self._docked[tenant_id, port] += sign
        for item, quantity in ship.cargo.items():
            self._moved[tenant_id, port, item].aboard += sign * quantity

    def write(self, db: sqlite3.Connection) -> None:
        """Writes it all."""
        for (tenant_id, _), ship in self._newest.items():
            self._moor(tenant_id, ship, +1)
        insert(
            db,
            "ports",
            [(*at, docked) for at, docked in self._docked.items()],
            "ON CONFLICT DO UPDATE SET ships_docked = ships_docked + excluded.ships_docked",
        )
        insert(
            db,
            "port_cargo",
            [
                (*what, moved.aboard, moved.loaded, moved.unloaded)
                for what, moved in self._moved.items()
            ],
            "ON CONFLICT DO UPDATE SET aboard = aboard + excluded.aboard,"
            " loaded = loaded + excluded.loaded, unloaded = unloaded + excluded.unloaded",
        )
        # What only passed through is neither there nor was it moved there.
        db.execute("DELETE FROM port_cargo WHERE aboard = 0 AND loaded = 0 AND unloaded = 0")


def apply(db: sqlite3.Connection, events: Iterable[RecordedEvent], ships: States[Ship]) -> None:
    """See `Projection.apply`."""
    batch = _Batch(ships)
    for event in events:
        batch.apply(event)
    batch.write(db)


class ShipQueries:
    """ShipQueryService."""

    def __init__(self, projector: Projector, past: Past) -> None:
        self._projector = projector
        self._past = past

    async def get_ship(self, request: GetShipRequest, call: Call) -> GetShipResponse:
        """See the contract."""
        ship, position = await get(self._projector, self._past, request, call)
        return GetShipResponse(ship=ship, position=position)

    async def list_ships(self, request: ListShipsRequest, call: Call) -> ListShipsResponse:
        """See the contract."""
        tenant_id = call.tenant_id
        check(request, *PAGE_CHECKS)
        if request.port:
            check(request, text("port"))
        if request.status not in ShipStatus.values():
            raise invalid_field("status", "is unknown")
        cursor = Cursor(request, tenant_id, "")
        (ships, token), position = await self._projector.query(
            call, request.min_position, _ships, tenant_id, request, cursor
        )
        return ListShipsResponse(
            ships=[Ship.FromString(ship) for ship in ships],
            next_page_token=token,
            position=position,
        )

    async def watch_ship(self, request: WatchShipRequest, call: Call) -> None:
        """See the contract."""
        await watch(self._projector, request, call, WatchShipResponse)

    async def list_ports(self, request: ListPortsRequest, call: Call) -> ListPortsResponse:
        """See the contract."""
        tenant_id = call.tenant_id
        check(request, *PAGE_CHECKS)
        cursor = Cursor(request, tenant_id, "")
        (ports, token), position = await self._projector.query(
            call, request.min_position, _ports, tenant_id, cursor
        )
        return ListPortsResponse(
            ports=[Port.FromString(port) for port in ports],
            next_page_token=token,
            position=position,
        )

    async def list_port_cargo(
        self, request: ListPortCargoRequest, call: Call
    ) -> ListPortCargoResponse:
        """See the contract."""
        tenant_id = call.tenant_id
        check(request, text("port"), *PAGE_CHECKS)
        cursor = Cursor(request, tenant_id, "")
        (cargo, token), position = await self._projector.query(
            call, request.min_position, _port_cargo, tenant_id, request.port, cursor
        )
        return ListPortCargoResponse(
            cargo=[PortCargo.FromString(item) for item in cargo],
            next_page_token=token,
            position=position,
        )


def _ships(
    db: sqlite3.Connection, tenant_id: str, request: ListShipsRequest, cursor: Cursor
) -> tuple[list[bytes], str]:
    conditions = ["tenant_id = ?", "aggregate_id > ?"]
    arguments: list[str | int] = [tenant_id, cursor.after]
    if request.port:
        conditions.append("port = ?")
        arguments.append(request.port)
    if request.status:
        conditions.append("status = ?")
        arguments.append(request.status)
    rows = db.execute(
        f"SELECT aggregate_id, state FROM states WHERE {' AND '.join(conditions)}"  # noqa: S608  # conditions of ours
        " ORDER BY aggregate_id LIMIT ?",
        (*arguments, cursor.size + 1),
    )
    return cursor.page(rows)


def _ports(db: sqlite3.Connection, tenant_id: str, cursor: Cursor) -> tuple[list[bytes], str]:
    rows = db.execute(
        "SELECT port, ships_docked FROM ports WHERE tenant_id = ? AND port > ?"
        " ORDER BY port LIMIT ?",
        (tenant_id, cursor.after, cursor.size + 1),
    )
    return cursor.page(
        (name, Port(name=name, ships_docked=docked).SerializeToString()) for name, docked in rows
    )


def _port_cargo(
    db: sqlite3.Connection, tenant_id: str, port: str, cursor: Cursor
) -> tuple[list[bytes], str]:
    rows = db.execute(
        "SELECT item, aboard, loaded, unloaded FROM port_cargo"
        " WHERE tenant_id = ? AND port = ? AND item > ? ORDER BY item LIMIT ?",
        (tenant_id, port, cursor.after, cursor.size + 1),
    )
    return cursor.page(
        (
            item,
            PortCargo(
                item=item, aboard=aboard, loaded=loaded, unloaded=unloaded
            ).SerializeToString(),
        )
        for item, aboard, loaded, unloaded in rows
    )


SHIPS = Projection(
    name="ships",
    aggregate=SHIP,
    schema_version=2,
    service=ship_pb2.DESCRIPTOR.services_by_name["ShipQueryService"],
    queries=ShipQueries,
    columns={"status": lambda ship: ship.status, "port": lambda ship: ship.current_port},
    schema=SCHEMA,
    apply=apply,
)
