"""Measures work that has an end, from its beginning to its end, rather than within a window."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from benchmarks import usage
from benchmarks.driving import load_process
from benchmarks.empty_server import REPEAT
from benchmarks.errors import BenchmarkFailed
from benchmarks.measurement import Measurement, ProcessUse
from benchmarks.orders import Order, Requests, Window
from examples.services import Service
from shared.security.tenants import EVERY_TENANT
from tidemark.v1.event_pb2 import EventFilter, SubscribeRequest

SUBSCRIBE = "/tidemark.v1.EventLogService/Subscribe"
LONGEST_S = 3600.0

T = TypeVar("T")


async def completed(
    work: Callable[[], Awaitable[T]], operations: int, servers: Sequence[Service]
) -> Measurement:
    """Measures servers while this process awaits what they do."""
    before = [usage.cpu_s(server.process.pid) for server in servers]
    started = time.monotonic()
    await work()
    seconds = time.monotonic() - started
    return Measurement(
        operations=operations,
        all_operations=operations,
        seconds=seconds,
        latencies_us=[],
        processes=uses(servers, before),
    )


async def streamed(order: Order, operations: int, servers: Sequence[Service]) -> Measurement:
    """Measures servers while a load process reads one stream to its end.

    Args:
        order: for a load whose only latency is that of the whole stream.
        operations: how many events there have to be in it.
        servers: those involved.

    Raises:
        BenchmarkFailed: the stream had more or fewer.
    """
    async with load_process() as load:
        await load.obey(order)
        before = [usage.cpu_s(server.process.pid) for server in servers]
        begin = time.monotonic()
        await load.begin(Window(begin, begin + LONGEST_S))
        report = await load.report()
    if report.operations != operations:
        raise BenchmarkFailed(f"A stream had {report.operations} events instead of {operations}")
    return Measurement(
        operations=operations,
        all_operations=operations,
        seconds=report.latencies_us[0] / 1e6,
        latencies_us=[],
        processes=[
            *uses(servers, before),
            ProcessUse("load", True, report.cpu_s, report.peak_rss_bytes),
        ],
    )


def history_of(
    service: Service, tenant: str = EVERY_TENANT, event_filter: EventFilter | None = None
) -> Order:
    """Read the log from its first event to its head."""
    request = SubscribeRequest(stop_at_head=True, filter=event_filter)
    requests = Requests([request.SerializeToString()], is_cyclic=False)
    return Order(service.address, SUBSCRIBE, requests, 1, "history", tenant=tenant)


def repetition_of(service: Service, message: bytes, count: int) -> Order:
    """Read a message from an empty server so many times."""
    requests = Requests([b"%d " % count + message], is_cyclic=False)
    return Order(service.address, REPEAT, requests, 1, "repetition")


def uses(servers: Sequence[Service], before: Sequence[float]) -> list[ProcessUse]:
    """What servers have used since they had used so many CPU seconds."""
    return [
        ProcessUse(
            name=server.name.removeprefix("benchmarks."),
            is_load=False,
            cpu_s=usage.cpu_s(server.process.pid) - cpu_s,
            peak_rss_bytes=usage.peak_rss_bytes(server.process.pid),
        )
        for server, cpu_s in zip(servers, before, strict=True)
    ]
