"""Cargo ships: what happened to one, and the state that it led to."""

from shared.aggregates.aggregate import Aggregate
from tidemark.v1.ship_pb2 import (
    SHIP_STATUS_AT_SEA,
    SHIP_STATUS_DOCKED,
    SHIP_STATUS_REGISTERED,
    CargoLoaded,
    CargoUnloaded,
    Ship,
    ShipDeparted,
    ShipDocked,
    ShipRegistered,
)

ShipEvent = ShipRegistered | ShipDocked | ShipDeparted | CargoLoaded | CargoUnloaded


def evolve(ship: Ship, event: ShipEvent) -> None:
    """Records the event in the ship."""
    match event:
        case ShipRegistered():
            ship.name = event.name
            ship.status = SHIP_STATUS_REGISTERED
        case ShipDocked():
            ship.status = SHIP_STATUS_DOCKED
            ship.current_port = event.port
        case ShipDeparted():
            ship.status = SHIP_STATUS_AT_SEA
            ship.current_port = ""
        case CargoLoaded():
            ship.cargo[event.item] += event.quantity
        case CargoUnloaded():
            ship.cargo[event.item] -= event.quantity
            if ship.cargo[event.item] == 0:
                del ship.cargo[event.item]


SHIP = Aggregate(
    name="ship",
    state=Ship,
    created_by=ShipRegistered,
    events=(ShipRegistered, ShipDocked, ShipDeparted, CargoLoaded, CargoUnloaded),
    evolve=evolve,
)
