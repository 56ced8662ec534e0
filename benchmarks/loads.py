"""The kinds of load: what the callers of a load process do until the window is over."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc

from benchmarks import reading_loads, stream_loads
from benchmarks.orders import Order
from benchmarks.recorder import Recorder

Load = Callable[[grpc.aio.Channel, Order, Recorder], Awaitable[None]]


async def unary(channel: grpc.aio.Channel, order: Order, recorder: Recorder) -> None:
    """Unary calls; a call that fails ends the load with its error."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(order.method)
    requests = order.requests.supply()

    async def send_until_over() -> None:
        while not recorder.is_over:
            started = time.monotonic()
            await call(next(requests), metadata=order.metadata)
            recorder.completed(started)
            if order.pause_s:
                await asyncio.sleep(order.pause_s)

    await asyncio.gather(*(send_until_over() for _ in range(order.callers)))


LOADS: dict[str, Load] = {
    "unary": unary,
    "bidirectional": stream_loads.bidirectional,
    "bulk": stream_loads.bulk,
    "history": reading_loads.history,
    "repetition": reading_loads.repetition,
    "stream": reading_loads.stream,
    "receipts": reading_loads.receipts,
    "visibility": reading_loads.visibility,
    "visibility since receipt": reading_loads.visibility_since_receipt,
}
