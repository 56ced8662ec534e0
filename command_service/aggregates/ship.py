"""The rules of cargo ships."""

from collections.abc import Sequence

from command_service.aggregates.rules import Rules
from shared.aggregates.ship import SHIP, ShipEvent
from shared.checks import between, identifier, new_identifier, text
from shared.errors import AlreadyExists, NotFound, Refused
from tidemark.v1 import ship_pb2
from tidemark.v1.ship_pb2 import (
    CargoLoaded,
    CargoUnloaded,
    DepartShip,
    DockShip,
    LoadCargo,
    RegisterShip,
    Ship,
    ShipDeparted,
    ShipDocked,
    ShipRegistered,
    UnloadCargo,
)

MAX_QUANTITY = 1_000_000_000
MAX_ITEMS = 1000

ShipCommand = RegisterShip | DockShip | DepartShip | LoadCargo | UnloadCargo


def decide(ship: Ship | None, command: ShipCommand) -> Sequence[ShipEvent]:
    """What the command makes happen to the ship, or why it cannot."""
    match ship, command:
        case None, RegisterShip(name=name):
            return [ShipRegistered(name=name)]
        case Ship(), RegisterShip():
            raise AlreadyExists("SHIP_ALREADY_REGISTERED", "Ship is already registered")
        case None, _:
            raise NotFound("SHIP_NOT_FOUND", "There is no such ship")

        case Ship(), DockShip(port=port):
            return [ShipDocked(port=port)]

        case Ship(status=ship_pb2.SHIP_STATUS_DOCKED, current_port=port), DepartShip():
            return [ShipDeparted(departed_from=port)]
        case Ship(), DepartShip():
            raise Refused("SHIP_NOT_DOCKED", "Ship is not docked at any port")

        case Ship(status=status), LoadCargo() if status != ship_pb2.SHIP_STATUS_DOCKED:
            raise Refused("SHIP_NOT_DOCKED", "Ship must be docked to load cargo")
        case Ship(cargo=cargo), LoadCargo(item=item) if (
            item not in cargo and len(cargo) >= MAX_ITEMS
        ):
            raise Refused("TOO_MANY_ITEMS", f"Ship already carries {MAX_ITEMS} kinds of item")
        case Ship(current_port=port), LoadCargo(item=item, quantity=quantity):
            return [CargoLoaded(item=item, quantity=quantity, port=port)]

        case Ship(status=status), UnloadCargo() if status != ship_pb2.SHIP_STATUS_DOCKED:
            raise Refused("SHIP_NOT_DOCKED", "Ship must be docked to unload cargo")
        case Ship(cargo=cargo), UnloadCargo(item=item) if item not in cargo:
            raise Refused("CARGO_NOT_ABOARD", f"No {item} on the ship")
        case Ship(cargo=cargo), UnloadCargo(item=item, quantity=quantity) if quantity > cargo[item]:
            raise Refused("NOT_ENOUGH_CARGO", f"Not enough {item} on the ship", aboard=cargo[item])
        case Ship(current_port=port), UnloadCargo(item=item, quantity=quantity):
            return [CargoUnloaded(item=item, quantity=quantity, port=port)]

    raise TypeError(f"No rule for {type(command).__name__}")


SHIP_RULES = Rules(
    aggregate=SHIP,
    service=ship_pb2.DESCRIPTOR.services_by_name["ShipCommandService"],
    commands={
        RegisterShip: (new_identifier("ship_id"), text("name")),
        DockShip: (identifier("ship_id"), text("port")),
        DepartShip: (identifier("ship_id"),),
        LoadCargo: (identifier("ship_id"), text("item"), between("quantity", 1, MAX_QUANTITY)),
        UnloadCargo: (identifier("ship_id"), text("item"), between("quantity", 1, MAX_QUANTITY)),
    },
    decide=decide,
)
