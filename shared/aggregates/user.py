"""Users with a balance: what happened to one, and the state that it led to."""

from shared.aggregates.aggregate import Aggregate
from tidemark.v1.user_pb2 import (
    User,
    UserBalanceChanged,
    UserCreated,
    UserDeleted,
    UserErased,
)

UserEvent = UserCreated | UserBalanceChanged | UserDeleted | UserErased


def evolve(user: User, event: UserEvent) -> None:
    """Records the event in the user."""
    match event:
        case UserCreated():
            user.username = event.username
            user.balance = event.balance
        case UserBalanceChanged():
            user.balance += event.balance_change
        case UserDeleted():
            user.deleted = True
        case UserErased():
            user.erased = True
            user.username = ""


USER = Aggregate(
    name="user",
    state=User,
    created_by=UserCreated,
    events=(UserCreated, UserBalanceChanged, UserDeleted, UserErased),
    erased_by=UserErased,
    evolve=evolve,
)
