"""The same changes, made by other stores of events, each driven as suits it best."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import count

from benchmarks.driving import under_load
from benchmarks.measurement import Measurement
from benchmarks.orders import Order, Requests
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.scenarios.bulk import LARGE, execute
from benchmarks.scenarios.commands import (
    USUAL_CALLERS,
    WARM_USERS,
    checked,
    shuffled,
    warm_users,
)
from benchmarks.stage import Stage
from benchmarks.users import CHANGE_BALANCE, changed

EVENTSOURCING = f"eventsourcing {version('eventsourcing')}"
UMADB = f"umadb {version('umadb')}"


async def commands(stage: Stage) -> Side:
    """A command service's unary calls, on warm users."""
    service = await stage.start_command_service()
    traffic = await warm_users(service.address)

    async def measure() -> Measurement:
        requests = traffic(stage.conditions)
        order = Order(service.address, CHANGE_BALANCE, requests, USUAL_CALLERS)
        return await checked(service, order, stage.conditions)

    return Side("Tidemark", measure)


def changes() -> Requests:
    """One of each warm user, in an order of chance."""
    messages = [changed(number).SerializeToString() for number in range(WARM_USERS)]
    return Requests(shuffled(messages), is_cyclic=True)


@asynccontextmanager
async def beside_eventsourcing(
    subject: Callable[[Stage], Awaitable[Side]], stage: Stage
) -> AsyncIterator[Comparison]:
    """Commands beside one thread that does the same in its own process, each time in a new file."""
    numbers = count()
    alone = replace(stage.conditions, load_processes=1)

    async def measure() -> Measurement:
        order = Order(
            address=str(stage.folder / f"eventsourcing-{next(numbers)}.db"),
            method="",
            requests=changes(),
            callers=1,
            program="benchmarks.peers.eventsourcing_users",
        )
        measurement = await under_load([order], [], alone)
        (process,) = measurement.processes
        worker = replace(process, name="eventsourcing_users", is_load=False)
        return replace(measurement, processes=[worker])

    yield Comparison(Side(EVENTSOURCING, measure), await subject(stage))


async def in_bulk(stage: Stage) -> Side:
    """A command service's Execute, with 256 commands in a request."""
    return await execute(stage, LARGE.order())


async def appends(stage: Stage, callers: int, events: int) -> Side:
    """UmaDB's appends of so many events each, after they were judged by its client."""
    server = await stage.start(
        "benchmarks.peers.umadb_server", "--database", str(stage.folder / "uma.db")
    )
    order = Order(
        address=server.address,
        method="",
        requests=changes(),
        callers=callers,
        operations=events,
        program="benchmarks.peers.umadb_users",
    )
    return Side(UMADB, lambda: under_load([order], [server], stage.conditions))


@asynccontextmanager
async def beside_umadb(
    subject: Callable[[Stage], Awaitable[Side]], stage: Stage
) -> AsyncIterator[Comparison]:
    """Commands beside appends of one event under a condition, from 64 callers."""
    yield Comparison(await appends(stage, USUAL_CALLERS, 1), await subject(stage))


@asynccontextmanager
async def beside_umadb_in_bulk(stage: Stage) -> AsyncIterator[Comparison]:
    """Execute beside appends of as many events, as many of them in flight."""
    reference = await appends(stage, LARGE.streams * LARGE.in_flight, LARGE.commands)
    yield Comparison(reference, await in_bulk(stage))


PEERS = Group(
    name="peers",
    title="The same changes of 10,000 warm users by others",
    scenarios=(
        Scenario(
            "eventsourcing",
            f"over gRPC, beside {EVENTSOURCING} on SQLite, in process",
            "commands",
            partial(beside_eventsourcing, commands),
            {"callers": USUAL_CALLERS},
        ),
        Scenario(
            "eventsourcing-bulk",
            "256 in a request, beside the same",
            "commands",
            partial(beside_eventsourcing, in_bulk),
            LARGE.parameters,
        ),
        Scenario(
            "umadb",
            f"over gRPC, beside {UMADB} with as many callers",
            "commands",
            partial(beside_umadb, commands),
            {"callers": USUAL_CALLERS},
        ),
        Scenario(
            "umadb-single",
            "256 in a request, beside the same",
            "commands",
            partial(beside_umadb, in_bulk),
            LARGE.parameters,
        ),
        Scenario(
            "umadb-bulk",
            f"256 in a request, beside unconditional appends of 256 to {UMADB}",
            "commands",
            beside_umadb_in_bulk,
            LARGE.parameters,
            is_long=True,
        ),
    ),
)
