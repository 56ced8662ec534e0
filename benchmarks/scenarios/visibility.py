"""How soon the query service answers with what a command has caused."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from benchmarks import users
from benchmarks.background import background
from benchmarks.clients import execute_all, head_position
from benchmarks.driving import under_load
from benchmarks.measurement import Measurement
from benchmarks.orders import Order, Requests
from benchmarks.projections import until_caught_up
from benchmarks.rounds import Notes
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.scenarios.empty_calls import empty_calls
from benchmarks.stage import Stage

USERS = 10_000
"""The first is asked for; the others are changed beside it."""


@asynccontextmanager
async def visible(load: str, others: int, stage: Stage) -> AsyncIterator[Comparison]:
    """One caller, who sends a command and asks for what came of it, beside an empty call.

    Args:
        load: which of the two times is taken.
        others: callers who send other commands meanwhile.
        stage: where nothing runs yet.
    """
    reference = await empty_calls(stage, 1)
    command = await stage.start_command_service()
    query = await stage.start_query_service(command)
    await execute_all(command.address, users.created(USERS))
    await until_caught_up(query.address, USERS)
    order = Order(
        command.address, users.CHANGE_BALANCE, _changes(range(1)), 1, load, follower=query.address
    )
    notes = Notes()

    async def measure() -> Measurement:
        async with AsyncExitStack() as stack:
            if others:
                beside = Order(
                    command.address, users.CHANGE_BALANCE, _changes(range(1, USERS)), others
                )
                await stack.enter_async_context(background(beside))
            before, began = await head_position(command.address), time.monotonic()
            measurement = await under_load([order], [command, query], stage.conditions)
            head, ended = await head_position(command.address), time.monotonic()
        if others:
            notes.add("commands per second in all", (head - before) / (ended - began))
        await until_caught_up(query.address, await head_position(command.address))
        return measurement

    comparison = Comparison(reference, Side("command and query", measure))
    yield comparison
    comparison.figures.update(notes.medians())


def _changes(numbers: range) -> Requests:
    messages = [users.changed(number).SerializeToString() for number in numbers]
    return Requests(messages, is_cyclic=True)


def _scenario(name: str, title: str, load: str, others: int) -> Scenario:
    parameters = {"callers": 1, "others": others}
    return Scenario(
        name,
        title,
        "commands",
        partial(visible, load, others),
        parameters,
        is_long=name.endswith("receipt"),
    )


VISIBILITY = Group(
    name="visibility",
    title="From a command to a query that contains it",
    scenarios=[
        _scenario(f"{state}-{name}", f"{title}, {state}", load, others)
        for state, others in (("idle", 0), ("loaded", 64))
        for name, title, load in (
            ("sent", "visible, since they were sent", "visibility"),
            ("receipt", "visible, since their receipt", "visibility since receipt"),
        )
    ],
)
