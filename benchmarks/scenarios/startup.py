"""How long the services take to start on a log that is there."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from benchmarks.completing import uses
from benchmarks.logs import mixed, place_log, place_store
from benchmarks.measurement import Conditions, Measurement
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.stage import Stage
from examples.services import Service

SHORT_EVENTS = 10_000

Start = Callable[[], Awaitable[Service]]


@asynccontextmanager
async def command_started(
    events_of: Callable[[Conditions], int], stage: Stage
) -> AsyncIterator[Comparison]:
    """The command service beside the empty server."""
    await place_log(stage, mixed(events_of(stage.conditions)))
    yield Comparison(
        Side("empty server", partial(_started, stage.start_empty_server)),
        Side("command service", partial(_started, stage.start_command_service)),
    )


@asynccontextmanager
async def query_started(
    events_of: Callable[[Conditions], int], stage: Stage
) -> AsyncIterator[Comparison]:
    """The query service beside the empty server."""
    log = mixed(events_of(stage.conditions))
    await place_log(stage, log)
    await place_store(stage, log)
    command = await stage.start_command_service()
    yield Comparison(
        Side("empty server", partial(_started, stage.start_empty_server)),
        Side("query service", partial(_started, partial(stage.start_query_service, command))),
    )


async def _started(start: Start) -> Measurement:
    """From starting the process to the line that says it is ready; then it is stopped."""
    begin = time.monotonic()
    service = await start()
    seconds = time.monotonic() - begin
    measurement = Measurement(
        operations=1,
        all_operations=1,
        seconds=seconds,
        latencies_us=[round(seconds * 1e6)],
        processes=uses([service], [0.0]),
    )
    await service.stop()
    return measurement


def _short(_: Conditions) -> int:
    return SHORT_EVENTS


def _long(conditions: Conditions) -> int:
    return conditions.log_events


STARTUP = Group(
    name="startup",
    title="From starting a process to its ready line",
    scenarios=[
        Scenario(
            f"{name}-{length}",
            f"of the {name} service",
            "starts",
            partial(compare, events),
            {"log": length},
        )
        for name, compare in (("command", command_started), ("query", query_started))
        for length, events in (("short", _short), ("large", _long))
    ],
)
