"""Invariant 12, by rules and a fold of this module's own: nothing of the services' judges here."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from tests.history.timeline import AGGREGATES, Timeline, payload_of, say
from tests.history.violation import Violation
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
from tidemark.v1.user_pb2 import User, UserBalanceChanged, UserCreated, UserDeleted, UserErased

MAX_BALANCE = 2**63 - 1
MAX_ITEMS = 1000


def the_domain_is_obeyed(timeline: Timeline) -> Iterator[Violation]:
    """12: every event could happen where it did, and led to the state that it should."""
    for broken, reason in timeline.broken:
        yield Violation(12, f"{say(broken)} cannot be there: {reason}", (broken.position,))
    for key, moments in timeline.moments.items():
        before: Any = None
        for version, moment in enumerate(moments, 1):
            after = timeline.state(key, version)
            event = timeline.events[timeline.count(moment.position) - 1]
            payload = payload_of(event)
            is_creation = isinstance(payload, AGGREGATES[key.aggregate_type].created_by)
            if is_creation != (before is None):
                sentence = f"{say(event)}: an aggregate is created first, and once"
                yield Violation(12, sentence, (event.position,))
            elif wrong := _wrong(before, payload, after):
                yield Violation(12, f"{say(event)}: {wrong}", (event.position,))
            before = after


def _wrong(before: Any, payload: Message, after: Any) -> str:
    """What is wrong with an event between two states; empty: nothing, or nothing known."""
    match after:
        case User():
            return _wrong_with_user(before or User(), payload, after)
        case Ship():
            return _wrong_with_ship(before or Ship(), payload, after)
        case _:
            return ""


def _wrong_with_user(before: User, payload: Message, after: User) -> str:
    username, balance, is_deleted = before.username, before.balance, before.deleted
    if before.deleted and not isinstance(payload, UserErased):
        return "the user was deleted"
    match payload:
        case UserCreated():
            username, balance = payload.username, payload.balance
        case UserBalanceChanged(balance_change=change):
            balance += change
        case UserDeleted():
            is_deleted = True
        case UserErased() if before.erased:
            return "the user was erased"
        case UserErased():
            username = ""
    if not 0 <= balance <= MAX_BALANCE:
        return f"the balance would be {balance}"
    if (after.username, after.balance, after.deleted) != (username, balance, is_deleted):
        return f"the balance {before.balance} became {after.balance} instead of {balance}"
    return ""


def _wrong_with_ship(before: Ship, payload: Message, after: Ship) -> str:
    name, status, port = before.name, before.status, before.current_port
    cargo = dict(before.cargo)
    is_docked = status == SHIP_STATUS_DOCKED
    match payload:
        case ShipRegistered():
            name, status = payload.name, SHIP_STATUS_REGISTERED
        case ShipDocked():
            status, port = SHIP_STATUS_DOCKED, payload.port
        case ShipDeparted(departed_from=departed_from):
            if not is_docked or departed_from != port:
                return f"the ship was not docked at {departed_from}"
            status, port = SHIP_STATUS_AT_SEA, ""
        case CargoLoaded() | CargoUnloaded():
            if not is_docked or payload.port != port:
                return f"the ship was not docked at {payload.port}"
            if payload.quantity <= 0:
                return f"the quantity is {payload.quantity}"
            sign = 1 if isinstance(payload, CargoLoaded) else -1
            cargo[payload.item] = cargo.get(payload.item, 0) + sign * payload.quantity
            if cargo[payload.item] < 0:
                return f"there would be {cargo[payload.item]} {payload.item} aboard"
            if cargo[payload.item] == 0:
                del cargo[payload.item]
            if len(cargo) > MAX_ITEMS:
                return f"there would be {len(cargo)} kinds of item aboard"
    if (after.name, after.status, after.current_port) != (name, status, port):
        return f"the ship is at {after.current_port!r} instead of {port!r}"
    if dict(after.cargo) != cargo:
        return f"the cargo is {dict(after.cargo)} instead of {cargo}"
    return ""
