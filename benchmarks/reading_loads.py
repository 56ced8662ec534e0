"""The loads of the reading side: whole histories, and waiting for what was just written."""

import asyncio
import time

import grpc

from benchmarks.errors import BenchmarkFailed
from benchmarks.orders import Order
from benchmarks.recorder import Recorder
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.event_pb2 import SubscribeResponse
from tidemark.v1.user_pb2 import GetUserRequest, GetUserResponse

GET_USER = "/tidemark.v1.UserQueryService/GetUser"


async def history(channel: grpc.aio.Channel, order: Order, recorder: Recorder) -> None:
    """One stream of a log, to its end, each response parsed; an event is an operation.

    Its only latency is that of the whole stream.
    """
    await _read(channel, order, recorder, is_log=True)


async def repetition(channel: grpc.aio.Channel, order: Order, recorder: Recorder) -> None:
    """The same of a stream whose responses need not follow each other."""
    await _read(channel, order, recorder, is_log=False)


async def _read(
    channel: grpc.aio.Channel, order: Order, recorder: Recorder, *, is_log: bool
) -> None:
    call: grpc.aio.UnaryStreamMultiCallable[bytes, SubscribeResponse] = channel.unary_stream(
        order.method, response_deserializer=SubscribeResponse.FromString
    )
    started = time.monotonic()
    events = 0
    position = 0
    async for response in call(next(order.requests.supply()), metadata=order.metadata):
        if response.events:
            if is_log and response.events[0].position <= position:
                raise BenchmarkFailed(f"An event at or before position {position} came again")
            position = response.events[-1].position
            events += len(response.events)
    recorder.completed(started, events)


async def stream(channel: grpc.aio.Channel, order: Order, recorder: Recorder) -> None:
    """Calls that are answered with a stream of messages, all of the same number.

    A message is an operation; the latencies are those of whole streams.
    """
    call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(order.method)
    requests = order.requests.supply()
    counts = set()

    async def send_until_over() -> None:
        while not recorder.is_over:
            started = time.monotonic()
            count = 0
            async for _ in call(next(requests)):
                count += 1
                recorder.passed(1)
            recorder.completed(started, operations=0)
            counts.add(count)

    await asyncio.gather(*(send_until_over() for _ in range(order.callers)))
    if len(counts) != 1:
        raise BenchmarkFailed(f"Streams of different lengths: {sorted(counts)}")


async def receipts(channel: grpc.aio.Channel, order: Order, recorder: Recorder) -> None:
    """Unary commands; their positions are reported."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, CommandReceipt] = channel.unary_unary(
        order.method, response_deserializer=CommandReceipt.FromString
    )
    requests = order.requests.supply()

    async def send_until_over() -> None:
        while not recorder.is_over:
            started = time.monotonic()
            receipt = await call(next(requests))
            recorder.completed(started)
            recorder.acknowledged(receipt.position)
            if order.pause_s:
                await asyncio.sleep(order.pause_s)

    await asyncio.gather(*(send_until_over() for _ in range(order.callers)))


async def visibility(channel: grpc.aio.Channel, order: Order, recorder: Recorder) -> None:
    """A command, then a query that has to contain it: from sending the one to the answer."""
    await _visibility(channel, order, recorder, is_since_receipt=False)


async def visibility_since_receipt(
    channel: grpc.aio.Channel, order: Order, recorder: Recorder
) -> None:
    """The same, timed from the command's receipt."""
    await _visibility(channel, order, recorder, is_since_receipt=True)


async def _visibility(
    channel: grpc.aio.Channel, order: Order, recorder: Recorder, *, is_since_receipt: bool
) -> None:
    command: grpc.aio.UnaryUnaryMultiCallable[bytes, CommandReceipt] = channel.unary_unary(
        order.method, response_deserializer=CommandReceipt.FromString
    )
    requests = order.requests.supply()
    async with grpc.aio.insecure_channel(order.follower) as follower:
        await follower.channel_ready()
        query: grpc.aio.UnaryUnaryMultiCallable[GetUserRequest, GetUserResponse]
        query = follower.unary_unary(
            GET_USER,
            request_serializer=GetUserRequest.SerializeToString,
            response_deserializer=GetUserResponse.FromString,
        )
        while not recorder.is_over:
            sent = time.monotonic()
            receipt = await command(next(requests))
            received = time.monotonic()
            answer = await query(
                GetUserRequest(user_id=receipt.aggregate_id, min_position=receipt.position)
            )
            if answer.user.version < receipt.version or answer.position < receipt.position:
                raise BenchmarkFailed(f"Position {receipt.position} was not in the answer")
            recorder.completed(received if is_since_receipt else sent)
