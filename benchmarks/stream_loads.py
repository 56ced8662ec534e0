"""The loads of bidirectional streams: each keeps a bounded number of requests in flight."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator

import grpc

from benchmarks.errors import BenchmarkFailed
from benchmarks.orders import Order
from benchmarks.recorder import Recorder
from tidemark.v1.command_pb2 import ExecuteResponse


async def bidirectional(channel: grpc.aio.Channel, order: Order, recorder: Recorder) -> None:
    """Streams on which each message is answered by one that is not looked at."""
    await _responses(channel, order, recorder)


async def bulk(channel: grpc.aio.Channel, order: Order, recorder: Recorder) -> None:
    """Streams of commands in bulk; once the window is over, every response is checked.

    Raises:
        BenchmarkFailed: a command has another answer than a receipt.
    """
    for message in await _responses(channel, order, recorder):
        results = ExecuteResponse.FromString(message).results
        if len(results) != order.operations:
            raise BenchmarkFailed(f"{order.operations} commands got {len(results)} results")
        for result in results:
            if not result.HasField("receipt"):
                raise BenchmarkFailed(f"A command in bulk was refused: {result.error.message}")


async def _responses(channel: grpc.aio.Channel, order: Order, recorder: Recorder) -> list[bytes]:
    """Whatever the streams were answered; each caller is a stream."""
    requests = order.requests.supply()
    responses: list[bytes] = []
    async with asyncio.TaskGroup() as streams:
        for _ in range(order.callers):
            streams.create_task(_converse(channel, order, recorder, requests, responses))
    return responses


async def _converse(
    channel: grpc.aio.Channel,
    order: Order,
    recorder: Recorder,
    requests: Iterator[bytes],
    responses: list[bytes],
) -> None:
    """One stream: begins with as many requests as may be in flight, then one for each answer."""
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(order.method)
    call = method(metadata=order.metadata)
    sent: deque[float] = deque()
    for _ in range(order.in_flight):
        sent.append(time.monotonic())
        await call.write(next(requests))
    while sent:
        response = await call.read()
        if not isinstance(response, bytes):
            raise BenchmarkFailed(f"A stream ended with {len(sent)} requests in flight")
        recorder.completed(sent.popleft(), order.operations)
        responses.append(response)
        if not recorder.is_over:
            sent.append(time.monotonic())
            await call.write(next(requests))
    await call.done_writing()
    if await call.read() is not grpc.aio.EOF:
        raise BenchmarkFailed("A stream has more answers than requests")
