"""What a tenant notices of another that sends as much as it can."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from benchmarks import users
from benchmarks.background import background
from benchmarks.clients import execute_all, head_position
from benchmarks.driving import under_load
from benchmarks.errors import BenchmarkFailed
from benchmarks.measurement import Measurement
from benchmarks.orders import Order, Requests
from benchmarks.rounds import Notes
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.scenarios.bulk import LARGE
from benchmarks.scenarios.commands import WARM_USERS
from benchmarks.stage import Stage

CROWD = "crowd"
PAUSE_S = 0.01
"""Between two commands of the one who is disturbed."""


def one_a_call(callers: int) -> Order:
    """So many callers, each of whom sends the next command at once."""
    messages = [users.changed(number).SerializeToString() for number in range(WARM_USERS)]
    return Order("", users.CHANGE_BALANCE, Requests(messages, is_cyclic=True), callers)


@asynccontextmanager
async def disturbed(flood: Callable[[], Order], stage: Stage) -> AsyncIterator[Comparison]:
    """One caller's commands beside another tenant's flood; the reference is the same alone.

    Args:
        flood: what the other tenant sends; to no address yet.
        stage: where nothing runs yet.
    """
    command = await stage.start_command_service()
    await execute_all(command.address, users.created(1))
    await execute_all(command.address, users.created(WARM_USERS), CROWD)
    change = Requests([users.changed(0).SerializeToString()], is_cyclic=True)
    order = Order(command.address, users.CHANGE_BALANCE, change, 1, pause_s=PAUSE_S)
    crowd = replace(flood(), address=command.address, tenant=CROWD)
    notes = Notes()
    alone: list[Measurement] = []

    async def measure_alone() -> Measurement:
        alone.append(await under_load([order], [command], stage.conditions))
        return alone[-1]

    async def measure_beside() -> Measurement:
        async with background(crowd):
            before = await head_position(command.address)
            measurement = await under_load([order], [command], stage.conditions)
            others = await head_position(command.address) - before - measurement.all_operations
        if others <= 0:
            raise BenchmarkFailed("There was no flood")
        notes.add("commands of the flood meanwhile", others)
        for percentile in (50, 99):
            times = measurement.latency_ms(percentile) / alone[-1].latency_ms(percentile)
            notes.add(f"times the p{percentile} alone", times)
        return measurement

    comparison = Comparison(Side("alone", measure_alone), Side("beside a flood", measure_beside))
    yield comparison
    comparison.figures.update(notes.medians())


NEIGHBOURS = Group(
    name="neighbours",
    title="One tenant's commands beside another tenant's flood",
    scenarios=(
        Scenario(
            "unary-64",
            "beside 64 callers",
            "commands",
            partial(disturbed, partial(one_a_call, 64)),
            {"callers": 1, "others": 64},
        ),
        Scenario(
            "unary-256",
            "beside 256 callers",
            "commands",
            partial(disturbed, partial(one_a_call, 256)),
            {"callers": 1, "others": 256},
            is_long=True,
        ),
        Scenario(
            "bulk",
            "beside streams of commands in bulk",
            "commands",
            partial(disturbed, LARGE.order),
            {"callers": 1, **LARGE.parameters},
        ),
    ),
)
