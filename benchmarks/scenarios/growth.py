"""What stays as it is, and what does not, while a log grows."""

import statistics
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle, islice

import grpc

from benchmarks import users
from benchmarks.clients import execute_all, head_position
from benchmarks.driving import load_process, under_load
from benchmarks.live_orders import LiveOrder
from benchmarks.logs import EVENTS_PER_USER, mixed, place_log, place_store
from benchmarks.measurement import Measurement
from benchmarks.orders import Order, Requests
from benchmarks.projections import until_caught_up
from benchmarks.reading_loads import GET_USER
from benchmarks.rounds import Notes
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.scenarios.empty_calls import empty_calls
from benchmarks.stage import Stage
from benchmarks.usage import disk_bytes
from examples.services import Service
from tidemark.v1.user_pb2 import GetUserRequest

SHARES = {"10k": 0.01, "100k": 0.1, "1m": 1.0, "5m": 5.0}
"""Of the events of a large log."""

ROUNDS = 3
USERS = 50
"""The same few in each log, so that nothing but its length differs."""

COLD_USERS = 15
"""Others, who are not in memory, in each round."""

CALLERS = 64
GET_CALLERS = 16
BULK_COMMANDS = 20_000
PAUSE_S = 0.02


@asynccontextmanager
async def grown(share: float, stage: Stage) -> AsyncIterator[Comparison]:
    """Commands on a log of some length, beside empty calls; the rest is among the figures."""
    reference = await empty_calls(stage, CALLERS)
    log = mixed(round(stage.conditions.log_events * share))
    await place_log(stage, log)
    await place_store(stage, log)
    notes = Notes()
    notes.add("bytes of the log per event", disk_bytes(stage.log_folder) / log.events)
    notes.add("bytes of the store per event", disk_bytes(stage.store_folder) / log.events)
    began = time.monotonic()
    command = await stage.start_command_service()
    notes.add("s until the command service is ready", time.monotonic() - began)
    began = time.monotonic()
    query = await stage.start_query_service(command)
    notes.add("s until the query service is ready", time.monotonic() - began)
    await until_caught_up(query.address, log.events)
    # A log for a quick look is too short for all of them.
    known = range(log.events // 2 // EVENTS_PER_USER)
    warm, cold = known[:USERS], iter(known[USERS:])
    changes = [users.changed(number).SerializeToString() for number in warm]

    async def measure() -> Measurement:
        order = _commands(command, changes, CALLERS, 0.0)
        measurement = await under_load([order], [command, query], stage.conditions)
        await _settled(command, query)
        await _note_bulk(notes, command, query, warm)
        await _note_cold(notes, command, islice(cold, COLD_USERS))
        await _note_gets(notes, query, warm, stage)
        await _note_deliveries(notes, command, query, changes, stage)
        return measurement

    comparison = Comparison(reference, Side("command", measure))
    yield comparison
    comparison.figures.update(notes.medians())


async def _note_bulk(notes: Notes, command: Service, query: Service, warm: range) -> None:
    began = time.monotonic()
    commands = map(users.changed, islice(cycle(warm), BULK_COMMANDS))
    await execute_all(command.address, commands)
    notes.add("commands in bulk per second", BULK_COMMANDS / (time.monotonic() - began))
    await _settled(command, query)


async def _note_cold(notes: Notes, command: Service, numbers: Iterable[int]) -> None:
    """Commands one after the other, each to a user whose past has to be read."""
    took_ms = []
    async with grpc.aio.insecure_channel(command.address) as channel:
        change: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        change = channel.unary_unary(users.CHANGE_BALANCE)
        for number in numbers:
            began = time.monotonic()
            await change(users.changed(number).SerializeToString())
            took_ms.append((time.monotonic() - began) * 1000)
    if took_ms:
        notes.add("ms p50 of a command to a user who is not in memory", statistics.median(took_ms))


async def _note_gets(notes: Notes, query: Service, warm: range, stage: Stage) -> None:
    messages = [
        GetUserRequest(user_id=users.user_id(number)).SerializeToString() for number in warm
    ]
    order = Order(query.address, GET_USER, Requests(messages, is_cyclic=True), GET_CALLERS)
    gets = await under_load([order], [query], stage.conditions)
    notes.add(f"GetUser per second, {GET_CALLERS} callers", gets.rate)
    notes.add("ms p99 of GetUser", gets.latency_ms(99))


async def _note_deliveries(
    notes: Notes, command: Service, query: Service, changes: list[bytes], stage: Stage
) -> None:
    async with load_process("benchmarks.live") as process:
        await process.obey(LiveOrder(query.address, 1))
        order = _commands(command, changes, 1, PAUSE_S)
        measurement = await under_load([order], [command, query], stage.conditions)
        report = await process.live_report(await head_position(command.address))
    receipts = dict(measurement.receipts)
    delays_ms = report.delays_ms(receipts)
    notes.add("ms p50 from receipt to delivery", delays_ms[len(delays_ms) // 2])
    await _settled(command, query)


async def _settled(command: Service, query: Service) -> None:
    await until_caught_up(query.address, await head_position(command.address))


def _commands(command: Service, changes: list[bytes], callers: int, pause_s: float) -> Order:
    requests = Requests(changes, is_cyclic=True)
    return Order(
        command.address, users.CHANGE_BALANCE, requests, callers, "receipts", pause_s=pause_s
    )


GROWTH = Group(
    name="growth",
    title="The services while the log grows",
    scenarios=[
        Scenario(
            f"grown-{name}",
            f"on a log of {name} events",
            "commands",
            partial(grown, share),
            {"callers": CALLERS},
            is_long=True,
            max_rounds=ROUNDS,
        )
        for name, share in SHARES.items()
    ],
)
