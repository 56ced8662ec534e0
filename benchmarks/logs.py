"""Logs that take a while to make: made once in a run, by the service itself, and then copied.

With each goes a store: the folder of a query service that has read all of it.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path

from google.protobuf.message import Message

from benchmarks import ships, users
from benchmarks.clients import execute_all, head_position
from benchmarks.errors import BenchmarkFailed
from benchmarks.projections import until_caught_up
from benchmarks.stage import Stage
from examples.services import Service

EVENTS_PER_USER = 50
EVENTS_PER_SHIP = 250


@dataclass(frozen=True)
class Log:
    """A log to be made.

    Args:
        name: of its folder.
        events: how many it has.
        commands: make them, one each.
    """

    name: str
    events: int
    commands: Callable[[], Iterator[Message]]


def mixed(events: int) -> Log:
    """Half of the events are of users, who have 50 each, half of ships, which have 250.

    What one aggregate does is spread over the whole log.
    """
    return Log(f"mixed-{events}", events, lambda: _mixed(events))


async def place_log(stage: Stage, log: Log) -> None:
    """Puts a copy where the stage's command service will have its log."""
    made = stage.shared / log.name / "log"
    if not made.exists():
        await _make_log(stage, log, made)
    await _copy(made, stage.log_folder)


async def place_store(stage: Stage, log: Log) -> None:
    """Puts a copy of its store where the stage's query service will have its own.

    The log has to be placed, and nothing may run on it.
    """
    made = stage.shared / log.name / "store"
    if not made.exists():
        command = await stage.start_command_service()
        query = await stage.start_query_service(command)
        await until_caught_up(query.address, log.events)
        await query.stop()
        await command.stop()
        await _copy(stage.store_folder, made)
    else:
        await _copy(made, stage.store_folder)


async def start_both(stage: Stage, log: Log) -> tuple[Service, Service]:
    """A command service and a query service that have the log."""
    await place_log(stage, log)
    await place_store(stage, log)
    command = await stage.start_command_service()
    query = await stage.start_query_service(command)
    await until_caught_up(query.address, log.events)
    return command, query


async def _make_log(stage: Stage, log: Log, folder: Path) -> None:
    service = await stage.start_command_service()
    await execute_all(service.address, log.commands())
    events = await head_position(service.address)
    if events != log.events:
        raise BenchmarkFailed(f"{log.name} has {events} events")
    await service.stop()
    folder.parent.mkdir(parents=True, exist_ok=True)
    await asyncio.to_thread(stage.log_folder.rename, folder)


async def _copy(source: Path, target: Path) -> None:
    await asyncio.to_thread(shutil.copytree, source, target)


def _mixed(events: int) -> Iterator[Message]:
    half = events // 2
    voyages = [ships.voyage(number) for number in range(half // EVENTS_PER_SHIP)]
    of_ships = (next(voyage) for voyage in cycle(voyages))
    count = half // EVENTS_PER_USER
    of_users = chain(users.created(count), map(users.changed, cycle(range(count))))
    for pair in islice(zip(of_users, of_ships, strict=True), half):
        yield from pair
