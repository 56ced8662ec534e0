"""Commands, with as little said as a test needs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from command_service.aggregates import RULES
from command_service.aggregates.ship import SHIP_RULES
from command_service.aggregates.user import USER_RULES
from command_service.command import Command, CommandTypes
from tidemark.v1.command_pb2 import CommandContext
from tidemark.v1.ship_pb2 import DepartShip, DockShip, LoadCargo, RegisterShip, UnloadCargo
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser

TENANT = "acme"
TYPES = CommandTypes(RULES)


def uuid(number: int) -> str:
    return str(UUID(int=number))


def command(
    message: Message,
    command_id: int | str = "",
    *,
    correlation_id: str = "",
    expected_version: int | None = None,
    validate_only: bool = False,
    tenant_id: str = TENANT,
    actor: str = "",
    types: CommandTypes = TYPES,
) -> Command:
    """As it comes from the wire."""
    context = CommandContext(
        command_id=uuid(command_id) if isinstance(command_id, int) else command_id,
        correlation_id=correlation_id,
        validate_only=validate_only,
    )
    if expected_version is not None:
        context.expected_version = expected_version
    with_context: Any = type(message)()
    with_context.CopyFrom(message)
    with_context.context.CopyFrom(context)
    return types.read(with_context, tenant_id, actor)


def ship_types(decide: Callable[[Any, Any], Sequence[Message]]) -> CommandTypes:
    """The commands, those of ships decided in another way."""
    return CommandTypes([replace(SHIP_RULES, decide=decide), USER_RULES])


def register(ship_id: str = "aurora", name: str = "Aurora") -> RegisterShip:
    return RegisterShip(ship_id=ship_id, name=name)


def dock(ship_id: str = "aurora", port: str = "Oslo") -> DockShip:
    return DockShip(ship_id=ship_id, port=port)


def depart(ship_id: str = "aurora") -> DepartShip:
    return DepartShip(ship_id=ship_id)


def load(ship_id: str = "aurora", item: str = "tea", quantity: int = 1) -> LoadCargo:
    return LoadCargo(ship_id=ship_id, item=item, quantity=quantity)


def unload(ship_id: str = "aurora", item: str = "tea", quantity: int = 1) -> UnloadCargo:
    return UnloadCargo(ship_id=ship_id, item=item, quantity=quantity)


def create(user_id: str = "ada", balance: int = 0) -> CreateUser:
    return CreateUser(user_id=user_id, username="Ada", balance=balance)


def change(user_id: str = "ada", by: int = 1) -> ChangeUserBalance:
    return ChangeUserBalance(user_id=user_id, balance_change=by)
