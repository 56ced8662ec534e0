"""Commands to a durable log, one in each call, beside the empty call from as many callers."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from benchmarks import plots, usage
from benchmarks.clients import execute_all, head_position
from benchmarks.driving import under_load
from benchmarks.errors import BenchmarkFailed
from benchmarks.measurement import Conditions, Measurement
from benchmarks.orders import Order, Requests
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.scenarios.empty_calls import empty_calls
from benchmarks.stage import Stage
from benchmarks.users import CHANGE_BALANCE, changed, changed_once, created
from examples.services import Service

WARM_USERS = 10_000
"""All of them fit into what the command service keeps in memory, which is 20,000."""

COLD_USERS = 1_000_000
REPEATED_COMMANDS = 10_000
MAX_RATE = 20_000
"""Commands per second for which there are requests; a faster service needs more."""

CALLERS = (1, 16, 64, 256)
USUAL_CALLERS = 64

Traffic = Callable[[Conditions], Requests]
"""Makes the requests of one measurement."""

Preparation = Callable[[str], Awaitable[Traffic]]
"""Fills the command service at an address, and says what to send to it then."""


async def warm_users(address: str) -> Traffic:
    """Changes of users that are all in memory."""
    await execute_all(address, created(WARM_USERS))
    await execute_all(address, map(changed, range(WARM_USERS)))
    changes = [changed(number).SerializeToString() for number in range(WARM_USERS)]
    return lambda _: Requests(shuffled(changes), is_cyclic=True)


async def hot_user(address: str) -> Traffic:
    """Changes of a single user."""
    await execute_all(address, created(1))
    change = changed(0).SerializeToString()
    return lambda _: Requests([change], is_cyclic=True)


async def new_command_ids(address: str) -> Traffic:
    """Changes of users that are all in memory, each under a command_id of the client's."""
    await warm_users(address)
    return new_changes


async def repeated_command_ids(address: str) -> Traffic:
    """The same changes again and again, under command_ids that have had their effect."""
    await warm_users(address)
    changes = [changed_once(number % WARM_USERS) for number in range(REPEATED_COMMANDS)]
    await execute_all(address, changes)
    repetitions = [change.SerializeToString() for change in changes]
    return lambda _: Requests(shuffled(repetitions), is_cyclic=True)


async def cold_users(address: str) -> Traffic:
    """Changes of users of whom hardly any is in memory."""
    await execute_all(address, created(COLD_USERS))

    def changes(conditions: Conditions) -> Requests:
        numbers = random.sample(range(COLD_USERS), needed(conditions))
        messages = [changed(number).SerializeToString() for number in numbers]
        return Requests(messages, is_cyclic=False)

    return changes


def new_changes(conditions: Conditions) -> Requests:
    """Changes that are never sent twice."""
    numbers = range(needed(conditions))
    messages = [changed_once(each % WARM_USERS).SerializeToString() for each in numbers]
    return Requests(messages, is_cyclic=False)


def needed(conditions: Conditions) -> int:
    """How many requests are enough for one measurement."""
    return round((conditions.warm_up_s + conditions.window_s) * MAX_RATE)


def shuffled(messages: list[bytes]) -> list[bytes]:
    """The same in an order of chance."""
    return random.sample(messages, len(messages))


@asynccontextmanager
async def compared(
    prepare: Preparation, callers: int, is_repetition: bool, stage: Stage
) -> AsyncIterator[Comparison]:
    """Commands beside empty calls; once stopped, the bytes of the log are counted."""
    reference = await empty_calls(stage, callers)
    service = await stage.start_command_service()
    traffic = await prepare(service.address)

    async def measure() -> Measurement:
        order = Order(service.address, CHANGE_BALANCE, traffic(stage.conditions), callers)
        return await checked(service, order, stage.conditions, is_repetition=is_repetition)

    comparison = Comparison(reference, Side("command", measure))
    yield comparison
    events = await head_position(service.address)
    await service.stop()
    comparison.figures["bytes per event"] = usage.disk_bytes(stage.log_folder) / events


async def checked(
    service: Service, order: Order, conditions: Conditions, *, is_repetition: bool = False
) -> Measurement:
    """Measures, and compares the log's growth with what was acknowledged."""
    before = await head_position(service.address)
    measurement = await under_load([order], [service], conditions)
    events = await head_position(service.address) - before
    expected = 0 if is_repetition else measurement.all_operations
    if events != expected:
        raise BenchmarkFailed(f"The log grew by {events} events where it had to by {expected}")
    return measurement


def _scenario(
    name: str,
    title: str,
    prepare: Preparation,
    *,
    callers: int = USUAL_CALLERS,
    is_repetition: bool = False,
    is_long: bool = False,
) -> Scenario:
    def compare(stage: Stage) -> AbstractAsyncContextManager[Comparison]:
        return compared(prepare, callers, is_repetition, stage)

    return Scenario(name, title, "commands", compare, {"callers": callers}, is_long)


ON_WARM_USERS = [
    _scenario(f"warm-{callers}", "on 10,000 warm users", warm_users, callers=callers)
    for callers in CALLERS
]

COMMANDS = Group(
    name="commands",
    title="Commands, each acknowledged when it is durable",
    scenarios=(
        *ON_WARM_USERS,
        _scenario("hot", "on one user", hot_user),
        _scenario("new-ids", "under new command_ids", new_command_ids),
        _scenario("repeated-ids", "repeated", repeated_command_ids, is_repetition=True),
        _scenario("cold", "on 1,000,000 cold users", cold_users, is_long=True),
    ),
    plot=partial(plots.over_callers, names={each.name for each in ON_WARM_USERS}),
)
