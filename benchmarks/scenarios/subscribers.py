"""Subscribers to the log: to what was, and to what happens."""

import random
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import grpc

from benchmarks import users
from benchmarks.clients import execute_all, head_position
from benchmarks.completing import SUBSCRIBE, history_of, repetition_of, streamed
from benchmarks.driving import load_process, under_load
from benchmarks.errors import BenchmarkFailed
from benchmarks.live_orders import LiveOrder, LiveReport
from benchmarks.logs import EVENTS_PER_USER, mixed, place_log, start_both
from benchmarks.measurement import Measurement, ProcessUse
from benchmarks.orders import Order, Requests
from benchmarks.projections import until_caught_up
from benchmarks.rounds import Notes
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.stage import Stage
from examples.services import Service
from shared.security.tenants import EVERY_TENANT
from tidemark.v1.event_pb2 import EventFilter, SubscribeRequest, SubscribeResponse

DEFAULT_TENANT = ""
RARE = 10_000
"""A filter selects one in so many events."""

WARM_USERS = 2_000
WATCHED = "watched at the query service"
PAUSE_S = 0.05
LONG_PAUSE_S = 0.5
"""Between commands whose delivery is timed: what they cause is over by then."""


@asynccontextmanager
async def from_zero(tenant: str, is_copy: bool, stage: Stage) -> AsyncIterator[Comparison]:
    """The whole log, beside an empty server that repeats one response as often as it takes."""
    log = mixed(stage.conditions.log_events)
    empty = await stage.start_empty_server()
    if is_copy:
        _, service = await start_both(stage, log)
    else:
        await place_log(stage, log)
        service = await stage.start_command_service()
    response = await _first_response(service, tenant)
    count = log.events // len(response.events)
    repetition = repetition_of(empty, response.SerializeToString(), count)
    repeated = count * len(response.events)
    yield Comparison(
        Side("repeated response", partial(streamed, repetition, repeated, [empty])),
        Side("subscriber", partial(streamed, history_of(service, tenant), log.events, [service])),
    )


@asynccontextmanager
async def filtered(stage: Stage) -> AsyncIterator[Comparison]:
    """A filter that selects hardly anything, beside the same stream without it."""
    log = mixed(stage.conditions.log_events)
    await place_log(stage, log)
    service = await stage.start_command_service()
    count = max(1, log.events // RARE // EVENTS_PER_USER)
    selected = EventFilter(aggregate_ids=[users.user_id(number) for number in range(count)])
    few = history_of(service, DEFAULT_TENANT, selected)

    async def measure() -> Measurement:
        measurement = await streamed(few, count * EVENTS_PER_USER, [service])
        return measurement.of(log.events)

    yield Comparison(
        Side("without a filter", lambda: streamed(history_of(service), log.events, [service])),
        Side("with it", measure),
        figures={"events selected": count * EVENTS_PER_USER},
    )


@dataclass(frozen=True)
class Traffic:
    """The commands that are watched.

    Args:
        callers: who send them.
        pause_s: seconds that each waits after an answer.
        window_share: of the usual window; many subscribers have much to catch up on after it.
    """

    callers: int = 16
    pause_s: float = 0.0
    window_share: float = 1.0


@asynccontextmanager
async def live(
    subscribers: int, is_copy: bool, traffic: Traffic, stage: Stage
) -> AsyncIterator[Comparison]:
    """Commands while others subscribe, beside commands that nobody watches."""
    command = await stage.start_command_service()
    query = await stage.start_query_service(command)
    await execute_all(command.address, users.created(WARM_USERS))
    await until_caught_up(query.address, WARM_USERS)
    changes = [users.changed(number).SerializeToString() for number in range(WARM_USERS)]
    window_s = stage.conditions.window_s * traffic.window_share
    conditions = replace(stage.conditions, window_s=window_s)
    notes = Notes()

    async def commands() -> Measurement:
        requests = Requests(random.sample(changes, len(changes)), is_cyclic=True)
        order = Order(
            command.address,
            users.CHANGE_BALANCE,
            requests,
            traffic.callers,
            "receipts",
            pause_s=traffic.pause_s,
        )
        measurement = await under_load([order], [command, query], conditions)
        await until_caught_up(query.address, await head_position(command.address))
        return measurement

    async def watched() -> Measurement:
        before = await head_position(command.address)
        async with load_process("benchmarks.live") as process:
            await process.obey(LiveOrder((query if is_copy else command).address, subscribers))
            measurement = await commands()
            head = await head_position(command.address)
            report = await process.live_report(head)
        if head - before != measurement.all_operations:
            raise BenchmarkFailed(f"The log grew by {head - before} events")
        _check(report, before, head)
        _note(notes, report, measurement)
        return measurement.beside(
            ProcessUse("subscribers", True, report.cpu_s, report.peak_rss_bytes)
        )

    comparison = Comparison(Side("not watched", commands), Side("watched", watched))
    yield comparison
    comparison.figures.update(notes.medians())


async def _first_response(service: Service, tenant: str) -> SubscribeResponse:
    metadata = (("x-tenant-id", tenant),) if tenant else ()
    async with grpc.aio.insecure_channel(service.address) as channel:
        call: grpc.aio.UnaryStreamMultiCallable[SubscribeRequest, SubscribeResponse]
        call = channel.unary_stream(
            SUBSCRIBE,
            request_serializer=SubscribeRequest.SerializeToString,
            response_deserializer=SubscribeResponse.FromString,
        )
        async for response in call(SubscribeRequest(), metadata=metadata):
            return response
    raise BenchmarkFailed("The stream ended without an event")


def _check(report: LiveReport, before: int, head: int) -> None:
    """That each subscriber got each event once; that responses are whole they have checked."""
    for deliveries in report.deliveries:
        position = before
        for first, last, _ in deliveries:
            if first != position + 1:
                raise BenchmarkFailed(f"Position {first} was delivered after {position}")
            position = last
        if position != head:
            raise BenchmarkFailed(f"A subscriber got events up to {position} instead of {head}")


def _note(notes: Notes, report: LiveReport, measurement: Measurement) -> None:
    receipts = dict(measurement.receipts)
    delays_ms = report.delays_ms(receipts)
    notes.add("ms p50 from receipt to delivery", _percentile(delays_ms, 50))
    notes.add("ms p99 from receipt to delivery", _percentile(delays_ms, 99))
    sizes = [last - first + 1 for deliveries in report.deliveries for first, last, _ in deliveries]
    notes.add("events in a response", statistics.mean(sizes))
    delivered = sum(sizes)
    begin = min(receipts.values())
    end = max(deliveries[-1][2] for deliveries in report.deliveries)
    notes.add("events delivered per second", delivered / (end - begin))


def _percentile(ordered: Sequence[float], percentile: int) -> float:
    return ordered[(len(ordered) - 1) * percentile // 100]


def _history(name: str, title: str, tenant: str, *, is_copy: bool = False) -> Scenario:
    return Scenario(name, title, "events", partial(from_zero, tenant, is_copy))


def _live(
    name: str,
    title: str,
    subscribers: int,
    traffic: Traffic,
    *,
    is_copy: bool = True,
) -> Scenario:
    return Scenario(
        name,
        title,
        "commands",
        partial(live, subscribers, is_copy, traffic),
        {"callers": traffic.callers, "subscribers": subscribers},
    )


def _when_long(scenario: Scenario) -> Scenario:
    return replace(scenario, is_long=True)


SUBSCRIBERS = Group(
    name="subscribers",
    title="Subscribers, from the first event on and live",
    scenarios=(
        _history("every-tenant", "of every tenant, to one subscriber", EVERY_TENANT),
        _history("one-tenant", "of one tenant, to one subscriber", DEFAULT_TENANT),
        _when_long(
            _history(
                "from-copy", "from the query service, to one subscriber", EVERY_TENANT, is_copy=True
            )
        ),
        Scenario("filtered", "past one subscriber who wants 1 in 10,000", "events", filtered),
        _when_long(
            _live("live-command", "watched at the command service", 1, Traffic(), is_copy=False)
        ),
        _live("live-1", WATCHED, 1, Traffic()),
        _live("live-100", WATCHED, 100, Traffic(window_share=0.5)),
        _live("live-1000", WATCHED, 1_000, Traffic(window_share=0.25)),
        _live("steady-1", f"each {PAUSE_S} s, {WATCHED}", 1, Traffic(1, PAUSE_S)),
        _live("steady-100", f"each {PAUSE_S} s, {WATCHED}", 100, Traffic(1, PAUSE_S)),
        _when_long(
            _live(
                "steady-1000",
                f"each {LONG_PAUSE_S} s, {WATCHED}",
                1_000,
                Traffic(1, LONG_PAUSE_S, window_share=2.5),
            )
        ),
    ),
)
