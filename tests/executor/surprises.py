"""Ships whose rules have mistakes in them, each at a port of its own."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message

from command_service.aggregates.ship import SHIP_RULES
from command_service.aggregates.user import USER_RULES
from command_service.command import CommandTypes
from shared.aggregates.ship import SHIP
from tidemark.v1.ship_pb2 import DockShip, Ship, ShipDeparted, ShipDocked

BERMUDA = "Bermuda"
"""Nobody knows what happens there."""

LIMBO = "Limbo"
"""Nothing happens there, not even a docking."""

REEF = "Reef"
"""Of what happens there, the second event cannot be recorded."""


def _decide(ship: Ship | None, command: Any) -> Sequence[Message]:
    match command:
        case DockShip(port="Bermuda"):
            raise ZeroDivisionError("lost at sea")
        case DockShip(port="Limbo"):
            return []
        case DockShip(port="Reef"):
            return [ShipDocked(port="Hull"), ShipDocked(port="Reef"), ShipDeparted()]
    return SHIP_RULES.decide(ship, command)


def _evolve(ship: Ship, event: Any) -> None:
    if isinstance(event, ShipDocked) and event.port == REEF:
        raise ZeroDivisionError("aground")
    SHIP.evolve(ship, event)


SURPRISING = CommandTypes(
    [replace(SHIP_RULES, aggregate=replace(SHIP, evolve=_evolve), decide=_decide), USER_RULES]
)
