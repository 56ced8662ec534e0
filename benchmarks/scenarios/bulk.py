"""Commands in bulk, over streams that keep requests in flight, beside the same bytes alone."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.clients import in_bulk
from benchmarks.driving import under_load
from benchmarks.empty_server import BIDIRECTIONAL
from benchmarks.errors import BenchmarkFailed
from benchmarks.measurement import Measurement
from benchmarks.orders import Order, Requests
from benchmarks.peers import row_per_event
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.scenarios.commands import WARM_USERS, checked, warm_users
from benchmarks.stage import Stage
from benchmarks.users import changed

EXECUTE = "/tidemark.v1.BulkCommandService/Execute"
PASSES = 4
"""So often each user is changed before the requests begin again."""


@dataclass(frozen=True)
class Shape:
    """How the commands are sent.

    Args:
        commands: in one request.
        streams: open at once.
        in_flight: requests of each stream that are not answered yet.
    """

    commands: int
    streams: int
    in_flight: int

    @property
    def parameters(self) -> dict[str, int]:
        """As scenarios have them."""
        return {
            "commands per request": self.commands,
            "streams": self.streams,
            "in flight": self.in_flight,
        }

    def order(self) -> Order:
        """Changes of all warm users, in an order of chance; to no address yet."""
        users = range(WARM_USERS)
        numbers = [each for _ in range(PASSES) for each in random.sample(users, len(users))]
        whole = len(numbers) - len(numbers) % self.commands
        requests = in_bulk(map(changed, numbers[:whole]), self.commands)
        return Order(
            address="",
            method=EXECUTE,
            requests=Requests([each.SerializeToString() for each in requests], is_cyclic=True),
            callers=self.streams,
            load="bulk",
            operations=self.commands,
            in_flight=self.in_flight,
        )


SINGLE = Shape(commands=1, streams=8, in_flight=16)
SMALL = Shape(commands=32, streams=4, in_flight=4)
LARGE = Shape(commands=256, streams=4, in_flight=2)


async def execute(stage: Stage, order: Order) -> Side:
    """Execute of a command service in which the users are warm."""
    service = await stage.start_command_service()
    await warm_users(service.address)
    addressed = replace(order, address=service.address)
    return Side("Execute", lambda: checked(service, addressed, stage.conditions))


@asynccontextmanager
async def beside_empty(shape: Shape, stage: Stage) -> AsyncIterator[Comparison]:
    """Execute beside a stream whose server reads the same bytes and answers with nothing."""
    order = shape.order()
    server = await stage.start_empty_server()
    empty = replace(order, address=server.address, method=BIDIRECTIONAL, load="bidirectional")
    reference = Side("empty stream", lambda: under_load([empty], [server], stage.conditions))
    yield Comparison(reference, await execute(stage, order))


@asynccontextmanager
async def beside_rows(shape: Shape, stage: Stage) -> AsyncIterator[Comparison]:
    """Execute beside `benchmarks.peers.row_per_event`; once stopped, its events are counted."""
    order = shape.order()
    database = stage.folder / "rows.db"
    server = await stage.start(row_per_event.__name__, "--database", str(database))
    rows = replace(
        order, address=server.address, method=row_per_event.EXECUTE, load="bidirectional"
    )
    acknowledged = 0

    async def measure() -> Measurement:
        nonlocal acknowledged
        measurement = await under_load([rows], [server], stage.conditions)
        acknowledged += measurement.all_operations
        return measurement

    comparison = Comparison(Side("a row-per-event store", measure), await execute(stage, order))
    yield comparison
    await server.stop()
    events = row_per_event.count_events(database)
    if events != acknowledged:
        raise BenchmarkFailed(f"{events} rows are there where {acknowledged} were acknowledged")
    comparison.figures["bytes per event of the reference"] = database.stat().st_size / events


def _scenario(
    name: str,
    title: str,
    shape: Shape,
    compare: Callable[[Shape, Stage], AbstractAsyncContextManager[Comparison]] = beside_empty,
) -> Scenario:
    return Scenario(name, title, "commands", partial(compare, shape), shape.parameters)


BULK = Group(
    name="bulk",
    title="Commands over streams, on 10,000 warm users",
    scenarios=(
        _scenario("single", "one in a request", SINGLE),
        _scenario("small", "32 in a request", SMALL),
        _scenario("large", "256 in a request", LARGE),
        _scenario("rows", "256 in a request, beside a row-per-event store", LARGE, beside_rows),
    ),
)
