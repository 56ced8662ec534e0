"""The rules of users with a balance."""

from collections.abc import Sequence

from command_service.aggregates.rules import Rules
from shared.aggregates.user import USER, UserEvent
from shared.checks import between, identifier, new_identifier, not_zero, text
from shared.errors import AlreadyExists, NotFound, Refused
from tidemark.v1 import user_pb2
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    DeleteUser,
    EraseUser,
    User,
    UserBalanceChanged,
    UserCreated,
    UserDeleted,
    UserErased,
)

MAX_BALANCE = 2**63 - 1

UserCommand = CreateUser | ChangeUserBalance | DeleteUser | EraseUser


def decide(user: User | None, command: UserCommand) -> Sequence[UserEvent]:
    """What the command makes happen to the user, or why it cannot."""
    match user, command:
        case None, CreateUser(username=username, balance=balance):
            return [UserCreated(username=username, balance=balance)]
        case None, _:
            raise NotFound("USER_NOT_FOUND", "There is no such user")

        # Who is gone can be erased as well, and who is erased can still pay.
        case User(erased=True), EraseUser():
            raise Refused("USER_ERASED", "User is erased")
        case User(), EraseUser():
            return [UserErased()]

        case User(deleted=True), _:
            raise Refused("USER_DELETED", "User is deleted")
        case User(), CreateUser():
            raise AlreadyExists("USER_ALREADY_EXISTS", "User already exists")

        case User(balance=balance), ChangeUserBalance(balance_change=change):
            if balance + change < 0:
                raise Refused("INSUFFICIENT_BALANCE", "Insufficient balance", balance=balance)
            if balance + change > MAX_BALANCE:
                raise Refused("BALANCE_OVERFLOW", f"Balance would exceed {MAX_BALANCE}")
            return [UserBalanceChanged(balance_change=change)]

        case User(), DeleteUser():
            return [UserDeleted()]

    raise TypeError(f"No rule for {type(command).__name__}")


USER_RULES = Rules(
    aggregate=USER,
    service=user_pb2.DESCRIPTOR.services_by_name["UserCommandService"],
    commands={
        CreateUser: (
            new_identifier("user_id"),
            text("username"),
            between("balance", 0, MAX_BALANCE),
        ),
        ChangeUserBalance: (identifier("user_id"), not_zero("balance_change")),
        DeleteUser: (identifier("user_id"),),
        EraseUser: (identifier("user_id"),),
    },
    decide=decide,
    erase=EraseUser,
)
