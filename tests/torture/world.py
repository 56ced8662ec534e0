"""What the clients of a run know of each other's doings, from which they choose the next."""

import random
from collections import deque
from dataclasses import dataclass, field

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tests.services.commanding import COMMAND_RPCS
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt
from tidemark.v1.ship_pb2 import DepartShip, DockShip, LoadCargo, RegisterShip, UnloadCargo
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser, DeleteUser

TENANTS = ("red", "blue")
PORTS = ("Bergen", "Oslo", "Ålesund")
ITEMS = ("silk", "tea", "tin")
HOT = ("hot-1", "hot-2")
WARM = tuple(f"warm-{number}" for number in range(12))
KNOWN = (*HOT, *WARM)
"""Ids of ships and of users alike, in both tenants."""

JOURNEYS = ("journey-1", "journey-2")
"""Correlation ids."""

REMEMBERED = 200

PACE_S = 0.004
"""Between two moves of a client: to be many is what the clients are for, not to be fast."""

SLOW_PACE_S = 0.03
"""The same, where others need the machine too."""


@dataclass
class Acknowledged:
    """A command that had an effect, and its receipt."""

    command: Message
    receipt: CommandReceipt


@dataclass
class World:
    """One tenant's, as its clients have seen it.

    Args:
        pace_s: between two moves of a client.
    """

    pace_s: float
    acknowledged: deque[Acknowledged] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    """The newest version that somebody heard of, by kind of aggregate and id."""
    times: deque[Timestamp] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """Moments at which something happened."""
    deleted: deque[CommandReceipt] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """Of the users that are gone."""

    def note(self, command: Message, receipt: CommandReceipt) -> None:
        """Keeps in mind what a command did."""
        if not receipt.position:
            return  # it was only to be validated
        self.acknowledged.append(Acknowledged(command, receipt))
        key = kind_of(command), receipt.aggregate_id
        self.versions[key] = max(receipt.version, self.versions.get(key, 0))
        if isinstance(command, DeleteUser):
            self.deleted.append(receipt)

    @property
    def position(self) -> int:
        """Of the newest command that was acknowledged."""
        return max((each.receipt.position for each in self.acknowledged), default=0)


def kind_of(command: Message) -> str:
    """The stub that takes the command: ships or users."""
    return COMMAND_RPCS[command.DESCRIPTOR.full_name][0]


def under(command: Message, **context: object) -> Message:
    """The command in a context."""
    copy = type(command)()
    copy.CopyFrom(command)
    copy.MergeFrom(type(command)(context=CommandContext(**context)))  # type: ignore[arg-type]  # its fields
    return copy


def id_of(command: Message) -> str:
    """The aggregate's, which is every command's first field."""
    return str(getattr(command, command.DESCRIPTOR.fields[0].name))


def voyage(choose: random.Random, ship_id: str) -> Message:
    """Something that a ship may or may not be able to do now."""
    item, quantity = choose.choice(ITEMS), choose.randint(1, 9)
    commands: list[Message] = [
        DockShip(ship_id=ship_id, port=choose.choice(PORTS)),
        LoadCargo(ship_id=ship_id, item=item, quantity=quantity),
        LoadCargo(ship_id=ship_id, item=item, quantity=quantity),
        UnloadCargo(ship_id=ship_id, item=item, quantity=quantity),
        DepartShip(ship_id=ship_id),
    ]
    return choose.choice(commands)


def payment(choose: random.Random, user_id: str) -> Message:
    """A change of a balance which that may or may not allow."""
    change = choose.choice([-40, -7, -1, 1, 5, 30])
    return ChangeUserBalance(user_id=user_id, balance_change=change)


def anything(choose: random.Random, aggregate_id: str) -> Message:
    """A command of either domain for one of the aggregates of that id."""
    return choose.choice([voyage, payment])(choose, aggregate_id)


def creation(kind: str, aggregate_id: str, tenant_id: str) -> Message:
    """What brings an aggregate about. What it is called tells whose it is."""
    if kind == "ships":
        return RegisterShip(ship_id=aggregate_id, name=f"{tenant_id} {aggregate_id}")
    return CreateUser(user_id=aggregate_id, username=f"{tenant_id} {aggregate_id}", balance=100)
