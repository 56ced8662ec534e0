"""A process dies at every await, and before every statement, on the way of a command.

One history for each of these places, from the first until one comes after all is done.
"""

from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import pytest
from google.protobuf.message import Message

from tests.executor.commands import change, command, create, dock, load, register
from tests.model.model import Sent
from tests.model.process import Process
from tests.model.world import World, world


def send(world: World, *messages: tuple[Message, int], writer: int = 0) -> None:
    """Sends commands under ids at once, and waits until each is answered or never will be."""
    head = world.command.log.head.position
    world.send(
        [Sent(command(message, number), None, head) for message, number in messages],
        writer,
        in_order=False,
    )
    world.loop.finish(world.answered())


class Way(NamedTuple):
    """What is on its way when the process dies.

    Args:
        process: that dies.
        before: has happened by then.
        during: happens then.
        writers: on the log.
        places: at which it can die, at least.
    """

    process: Callable[[World], Process]
    before: Callable[[World], None]
    during: Callable[[World], None]
    left: set[int]
    writers: int = 1


def of_command(world: World) -> Process:
    return world.command.process


def of_query(world: World) -> Process:
    return world.query.process


def nothing(_world: World) -> None:
    """The log is empty."""


def a_ship(world: World) -> None:
    send(world, (register(), 1))


def another_writer_was_first(world: World) -> None:
    a_ship(world)
    send(world, (dock(port="Hull"), 2), writer=1)


def a_batch(world: World) -> None:
    """Is copied, and brought into both projections."""
    send(world, (create(), 1), (register(), 2), (change(), 3), (dock(), 4), (load(), 5))
    world.loop.finish(world.in_step())


WAYS = {
    "a command to a fresh aggregate": Way(of_command, nothing, a_ship, {0, 1}),
    "a command that another writer was faster than": Way(
        of_command,
        another_writer_was_first,
        lambda world: send(world, (dock(), 3)),
        {2, 3},
        writers=2,
    ),
    "a repeated command": Way(of_command, a_ship, a_ship, {1}),
    "a batch to be copied and projected": Way(of_query, nothing, a_batch, {5}),
}


@pytest.mark.parametrize("way", WAYS)
def test_wherever_a_process_dies_nothing_is_lost_or_done_twice(way: str) -> None:
    process_of, before, during, left, writers = WAYS[way]
    heads = set()
    for places in count():
        with world(seed=0, writers=writers) as each:
            before(each)
            process = process_of(each)
            process.die_after(places)
            during(each)
            is_done = process.is_alive
            each.look()
            heads.add(each.model.timeline.head)
            each.settle()
        if is_done:
            break

    assert heads == left
