"""The kinds of load: what the callers of a load process do until the window is over."""

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable

import grpc

from benchmarks.orders import LoadReport, Order, Window


class Recorder:
    """Counts what was completed, and how long it took."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._operations = 0
        self._all_operations = 0
        self._latencies_s = array("d")

    @property
    def is_over(self) -> bool:
        """Whether nothing counts any more."""
        return time.monotonic() >= self._window.end

    def completed(self, started: float, operations: int = 1) -> None:
        """A call is answered.

        Args:
            started: by the monotonic clock.
            operations: how many the call stood for.
        """
        now = time.monotonic()
        self._all_operations += operations
        if self._window.begin <= now < self._window.end:
            self._operations += operations
            self._latencies_s.append(now - started)

    def report(self, peak_rss_bytes: int) -> LoadReport:
        """All of it."""
        return LoadReport(
            operations=self._operations,
            all_operations=self._all_operations,
            latencies_us=[round(latency * 1e6) for latency in self._latencies_s],
            peak_rss_bytes=peak_rss_bytes,
        )


Load = Callable[[grpc.aio.Channel, Order, Recorder], Awaitable[None]]


async def unary(channel: grpc.aio.Channel, order: Order, recorder: Recorder) -> None:
    """Unary calls; a call that fails ends the load with its error."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(order.method)
    requests = order.requests.supply()

    async def send_until_over() -> None:
        while not recorder.is_over:
            started = time.monotonic()
            await call(next(requests))
            recorder.completed(started)

    await asyncio.gather(*(send_until_over() for _ in range(order.callers)))


LOADS: dict[str, Load] = {"unary": unary}
