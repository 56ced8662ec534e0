"""Ten minutes of moderate load, to see whether memory stays as it is."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from benchmarks import plots, usage, users
from benchmarks.clients import execute_all, head_position
from benchmarks.driving import load_process, under_load
from benchmarks.live_orders import LiveOrder
from benchmarks.measurement import Curve, Measurement, ProcessUse
from benchmarks.orders import Order, Requests
from benchmarks.projections import until_caught_up
from benchmarks.reading_loads import GET_USER
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.scenarios.empty_calls import empty_calls
from benchmarks.stage import Stage
from examples.services import Service
from tidemark.v1.user_pb2 import GetUserRequest

WINDOW_SHARE = 500
"""The usual window so many times is ten minutes."""

SAMPLES = 120
"""One each 5 s of ten minutes."""

SETTLED_SHARE = 0.6
"""Of the time, after which memory should not grow any more: what is kept of the newest events takes
about five of the ten minutes to be as much as it may be."""

USERS = 10_000
CALLERS = 8
PAUSE_S = 0.05


@asynccontextmanager
async def soaked(stage: Stage) -> AsyncIterator[Comparison]:
    """Commands and queries with pauses between them, and a live subscriber, beside empty calls."""
    reference = await empty_calls(stage, CALLERS)
    command = await stage.start_command_service()
    query = await stage.start_query_service(command)
    await execute_all(command.address, users.created(USERS))
    await until_caught_up(query.address, USERS)
    changes = [users.changed(number).SerializeToString() for number in range(USERS)]
    ids = map(users.user_id, range(USERS))
    gets = [GetUserRequest(user_id=each).SerializeToString() for each in ids]
    orders = [
        _paused(command, users.CHANGE_BALANCE, changes),
        _paused(query, GET_USER, gets),
    ]
    window_s = stage.conditions.window_s * WINDOW_SHARE
    conditions = replace(stage.conditions, window_s=window_s)
    comparison_curves: dict[str, Curve] = {}
    figures: dict[str, float] = {}

    async def measure() -> Measurement:
        async with load_process("benchmarks.live") as process:
            await process.obey(LiveOrder(query.address, 1))
            sampling = asyncio.create_task(_sample([command, query], window_s))
            measurement = await under_load(orders, [command, query], conditions)
            comparison_curves.update(await sampling)
            report = await process.live_report(await head_position(command.address))
        for name, curve in comparison_curves.items():
            figures[f"MB per hour more in {name}"] = _slope_per_hour(curve, window_s)
        return measurement.beside(
            ProcessUse("subscriber", True, report.cpu_s, report.peak_rss_bytes)
        )

    yield Comparison(reference, Side("mixed load", measure), figures, comparison_curves)


async def _sample(services: list[Service], duration_s: float) -> dict[str, Curve]:
    """Memory in MB over the seconds."""
    curves: dict[str, Curve] = {service.name: [] for service in services}
    began = time.monotonic()
    for number in range(SAMPLES):
        await asyncio.sleep(began + number * duration_s / SAMPLES - time.monotonic())
        for service in services:
            mb = usage.rss_bytes(service.process.pid) / 1e6
            curves[service.name].append((time.monotonic() - began, mb))
    return curves


def _slope_per_hour(curve: Curve, duration_s: float) -> float:
    settled = [point for point in curve if point[0] >= duration_s * SETTLED_SHARE]
    seconds, mb = zip(*settled, strict=True)
    return statistics.linear_regression(seconds, mb).slope * 3600


def _paused(service: Service, method: str, messages: list[bytes]) -> Order:
    requests = Requests(messages, is_cyclic=True)
    return Order(service.address, method, requests, CALLERS, pause_s=PAUSE_S)


SOAK = Group(
    name="soak",
    title="Moderate load for ten minutes",
    scenarios=(
        Scenario(
            "mixed",
            "mixed: commands and GetUser, with a live subscriber",
            "calls",
            soaked,
            {"callers": CALLERS},
            is_long=True,
            max_rounds=1,
        ),
    ),
    plot=partial(plots.over_time, name="mixed", label="resident memory, MB"),
)
