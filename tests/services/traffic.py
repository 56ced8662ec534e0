"""Ships that come and go, and what the lists of ports and cargo have to say of that."""

import random
from collections import defaultdict

from google.protobuf.message import Message

from shared.aggregates.ship import SHIP
from tests.services.histories import states
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import (
    CargoLoaded,
    CargoUnloaded,
    DepartShip,
    DockShip,
    LoadCargo,
    Port,
    PortCargo,
    RegisterShip,
    Ship,
    ShipDocked,
    UnloadCargo,
)

PORTS = ("Bergen", "Oslo", "Ålesund")
ITEMS = ("silk", "tea", "tin")


def traffic(seed: int, count: int) -> list[Message]:
    """Commands for nine ships, each of which is possible when it comes."""
    choose = random.Random(seed)  # noqa: S311  # no secret
    ships: dict[str, Ship] = {}
    commands: list[Message] = []
    while len(commands) < count:
        ship_id = f"ship-{choose.randrange(9)}"
        ship = ships.get(ship_id)
        item, quantity = choose.choice(ITEMS), choose.randint(1, 9)
        command: Message
        if ship is None:
            command = RegisterShip(ship_id=ship_id, name="Aurora")
            ships[ship_id] = Ship()
        elif not ship.current_port or choose.random() < 0.2:
            ship.current_port = choose.choice(PORTS)
            command = DockShip(ship_id=ship_id, port=ship.current_port)
        elif choose.random() < 0.2:
            ship.current_port = ""
            command = DepartShip(ship_id=ship_id)
        elif ship.cargo[item] >= quantity:
            ship.cargo[item] -= quantity
            command = UnloadCargo(ship_id=ship_id, item=item, quantity=quantity)
        else:
            ship.cargo[item] += quantity
            command = LoadCargo(ship_id=ship_id, item=item, quantity=quantity)
        commands.append(command)
    return commands


def ports_of(events: list[RecordedEvent]) -> list[Port]:
    """What ListPorts has to say of a tenant's events."""
    docked: dict[str, int] = {}
    for event in events:
        payload = SHIP.unpack(event)
        if isinstance(payload, ShipDocked):
            docked[payload.port] = 0
    for ship in states(SHIP, events):
        if ship.current_port:
            docked[ship.current_port] += 1
    return [Port(name=name, ships_docked=docked[name]) for name in sorted(docked)]


def cargo_of(port: str, events: list[RecordedEvent]) -> list[PortCargo]:
    """What ListPortCargo has to say of a tenant's events."""
    moved: defaultdict[str, PortCargo] = defaultdict(PortCargo)
    for event in events:
        match SHIP.unpack(event):
            case CargoLoaded() as loaded if loaded.port == port:
                moved[loaded.item].loaded += loaded.quantity
            case CargoUnloaded() as unloaded if unloaded.port == port:
                moved[unloaded.item].unloaded += unloaded.quantity
    for ship in states(SHIP, events):
        if ship.current_port == port:
            for item, quantity in ship.cargo.items():
                moved[item].aboard += quantity
    for item in moved:
        moved[item].item = item
    return [moved[item] for item in sorted(moved)]
