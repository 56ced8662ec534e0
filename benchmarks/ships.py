"""Ships that go from port to port, and the commands that move them."""

from collections.abc import Iterator

from google.protobuf.message import Message

from tidemark.v1.ship_pb2 import DepartShip, DockShip, LoadCargo, RegisterShip, UnloadCargo

PORTS = 50
ITEMS = 20


def ship_id(number: int) -> str:
    """The id of one of many ships."""
    return f"ship-{number:05}"


def voyage(number: int) -> Iterator[Message]:
    """A ship's commands, without end: registered, then docked, loaded, unloaded and departed."""
    ship = ship_id(number)
    yield RegisterShip(ship_id=ship, name=f"Ship {number}")
    call = number
    while True:
        item = f"item-{call % ITEMS:02}"
        yield DockShip(ship_id=ship, port=f"Port {call % PORTS}")
        yield LoadCargo(ship_id=ship, item=item, quantity=10)
        yield UnloadCargo(ship_id=ship, item=item, quantity=4)
        yield DepartShip(ship_id=ship)
        call += 1
