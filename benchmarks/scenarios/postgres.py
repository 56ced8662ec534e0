"""Commands on PostgreSQL, from one command service and from two, beside one on SQLite."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import asyncpg

from benchmarks.clients import head_position
from benchmarks.driving import under_load
from benchmarks.errors import BenchmarkFailed
from benchmarks.measurement import Conditions, Measurement
from benchmarks.orders import Order, Requests
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.scenarios.bulk import LARGE
from benchmarks.scenarios.commands import USUAL_CALLERS, WARM_USERS, shuffled, warm_users
from benchmarks.stage import Stage
from benchmarks.users import CHANGE_BALANCE, changed
from examples.postgres import PostgresServer
from examples.services import Service

SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
}
RESET = "SELECT pg_stat_statements_reset(), pg_stat_reset()"

# What a service sends, in pg_stat_statements' words; the fence is moved by new connections.
ROUND_TRIPS = """
SELECT sum(calls) FILTER (WHERE query LIKE '%advanced AS%' OR query LIKE '%FROM log_head AS head%'
        OR query LIKE '%FROM log_head FOR UPDATE' OR query IN ('BEGIN;', 'COMMIT;')),
    sum(calls) FILTER (WHERE query LIKE 'UPDATE log_head%')
FROM pg_stat_statements
"""
COMMITS = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'log_head'"

Orders = Callable[[Sequence[Service]], list[Order]]
"""What the load processes of each service are to do."""


def _requests(users: Sequence[int]) -> Requests:
    messages = [changed(number).SerializeToString() for number in users]
    return Requests(shuffled(messages), is_cyclic=True)


def calls(callers: int, services: Sequence[Service], *, is_shared: bool = False) -> list[Order]:
    """Unary calls: each service has its own users, or all of them have the same."""
    users = range(WARM_USERS)
    count = len(services)
    return [
        Order(
            service.address,
            CHANGE_BALANCE,
            _requests(users if is_shared else users[number::count]),
            callers // count,
        )
        for number, service in enumerate(services)
    ]


def bulk(services: Sequence[Service]) -> list[Order]:
    """Streams of requests with 256 commands each, of any user."""
    shape = replace(LARGE, streams=LARGE.streams // len(services))
    return [replace(shape.order(), address=service.address) for service in services]


async def checked(
    orders: list[Order], services: Sequence[Service], conditions: Conditions
) -> Measurement:
    """Measures services on one log, and compares its growth with what was acknowledged."""
    before = await head_position(services[0].address)
    measurement = await under_load(orders, services, conditions)
    events = await head_position(services[0].address) - before
    if events != measurement.all_operations:
        raise BenchmarkFailed(
            f"The log grew by {events} events where it had to by {measurement.all_operations}"
        )
    return measurement


@asynccontextmanager
async def compared(count: int, orders: Orders, stage: Stage) -> AsyncIterator[Comparison]:
    """So many command services on PostgreSQL beside one on SQLite, under the same load."""
    on_sqlite = await stage.start_command_service()
    await warm_users(on_sqlite.address)
    server = await stage.start_postgres(SETTINGS)
    options = ("--log", server.url, "--keys", server.keys_url)
    services = [await stage.start_command_service(*options) for _ in range(count)]
    await warm_users(services[0].address)
    await _ask(server, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    await _ask(server, RESET)
    conditions = stage.conditions

    def side(name: str, servers: Sequence[Service]) -> Side:
        def measure() -> Awaitable[Measurement]:
            return checked(orders(servers), servers, conditions)

        return Side(name, measure)

    comparison = Comparison(side("SQLite", [on_sqlite]), side(f"PostgreSQL, {count}", services))
    before = await head_position(services[0].address)
    yield comparison
    events = await head_position(services[0].address) - before
    # With their connections, what the server has counted for them becomes known.
    for service in services:
        await service.stop()
    [(round_trips, settled)] = await _ask(server, ROUND_TRIPS)
    [(updates,)] = await _ask(server, COMMITS)
    commits = int(updates) - int(settled or 0)
    comparison.figures["round trips per grouped commit"] = int(round_trips) / commits
    comparison.figures["commands per grouped commit"] = events / commits


async def _ask(server: PostgresServer, question: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(server.url)
    try:
        return list(await connection.fetch(question))
    finally:
        await connection.close()


@dataclass(frozen=True)
class Case:
    """A load, and for how many command services on PostgreSQL."""

    name: str
    title: str
    services: int
    orders: Orders
    parameters: dict[str, int]
    is_long: bool = True

    def scenario(self) -> Scenario:
        """As it is measured."""

        def compare(stage: Stage) -> AbstractAsyncContextManager[Comparison]:
            return compared(self.services, self.orders, stage)

        parameters = {"command services": self.services, **self.parameters}
        return Scenario(self.name, self.title, "commands", compare, parameters, self.is_long)


USUAL = partial(calls, USUAL_CALLERS)
SHARED = partial(USUAL, is_shared=True)
CALLERS = {"callers": USUAL_CALLERS}

POSTGRES = Group(
    name="postgres",
    title="Commands on PostgreSQL beside SQLite, on 10,000 warm users",
    scenarios=[
        case.scenario()
        for case in (
            Case("latency", "of one caller", 1, partial(calls, 1), {"callers": 1}),
            Case("one", "one in a call", 1, USUAL, CALLERS, is_long=False),
            Case("two", "one in a call, each service its own users", 2, USUAL, CALLERS),
            Case("two-shared", "one in a call, all users through both", 2, SHARED, CALLERS),
            Case("one-bulk", "256 in a request", 1, bulk, LARGE.parameters),
            Case("two-bulk", "256 in a request", 2, bulk, LARGE.parameters, is_long=False),
        )
    ],
)
