"""The story that most histories made by hand begin with, and what is asked of each of them."""

from uuid import UUID

import grpc

from shared.log.log import AggregateKey
from tests.history.recorded import Failure
from tests.history.story import Story
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.ship_pb2 import DepartShip, DockShip, LoadCargo, RegisterShip
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser, DeleteUser

EVER = AggregateKey("red", "ship", "ever")
ANN = AggregateKey("red", "user", "ann")
REGISTER = RegisterShip(ship_id="ever", name="Ever")
DOCK = DockShip(ship_id="ever", port="Oslo")
LOAD = LoadCargo(ship_id="ever", item="tea", quantity=3)
DEPART = DepartShip(ship_id="ever")
CREATE = CreateUser(user_id="ann", username="Ann", balance=10)
PAY = ChangeUserBalance(user_id="ann", balance_change=-4)
DELETE = DeleteUser(user_id="ann")
SOME_ID = str(UUID(int=1))


def voyage() -> Story:
    """A ship and a user of one tenant, and a ship of the same id of another."""
    story = Story()
    for command in (REGISTER, DOCK, LOAD, CREATE, PAY):
        story.does(command)
    story.does(REGISTER, "blue")
    return story


def receipt(story: Story, number: int) -> CommandReceipt:
    """What a call was answered with."""
    answer = story.history.calls[number].answer
    assert isinstance(answer, CommandReceipt)
    return answer


def repeated(answer: CommandReceipt) -> CommandReceipt:
    """The same receipt, to somebody who asks again."""
    again = CommandReceipt(duplicate=True)
    again.MergeFrom(answer)
    return again


def refused(reason: str) -> Failure:
    """By the rules."""
    return Failure(grpc.StatusCode.FAILED_PRECONDITION, reason)


def broken(story: Story) -> list[int]:
    """The invariants that a history breaks, most telling first, each once."""
    return list(dict.fromkeys(each.invariant for each in story.violations()))


def first(story: Story) -> tuple[int, str]:
    """The first promise that was not kept, and what is said of it."""
    violation = story.violations()[0]
    return violation.invariant, violation.sentence
