"""Users to send commands to, and the commands."""

import uuid
from collections.abc import Iterator

from tidemark.v1.command_pb2 import CommandContext
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser

CHANGE_BALANCE = "/tidemark.v1.UserCommandService/ChangeBalance"
FIRST_BALANCE = 100


def user_id(number: int) -> str:
    """The id of one of many users."""
    return f"user-{number:07}"


def created(count: int) -> Iterator[CreateUser]:
    """Creates so many users."""
    for number in range(count):
        yield CreateUser(user_id=user_id(number), username=f"User {number}", balance=FIRST_BALANCE)


def changed(number: int) -> ChangeUserBalance:
    """Changes a user's balance; the service makes up the command_id."""
    return ChangeUserBalance(user_id=user_id(number), balance_change=1)


def changed_once(number: int) -> ChangeUserBalance:
    """The same under a new command_id of the client's."""
    return ChangeUserBalance(
        user_id=user_id(number),
        balance_change=1,
        context=CommandContext(command_id=str(uuid.uuid4())),
    )
