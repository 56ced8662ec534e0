"""Many live subscribers in a process of their own: `python -m benchmarks.live`.

It reads an order from standard input, subscribes, says that it is ready once every stream has told
where the log ends, reads a position, receives until every stream has come that far, and writes its
report to standard output.
"""

import asyncio
import os
import sys
import time

import grpc
from google.protobuf.empty_pb2 import Empty

from benchmarks import usage
from benchmarks.errors import BenchmarkFailed
from benchmarks.live_orders import LiveOrder, LiveReport
from benchmarks.orders import READY, say
from tidemark.v1.event_pb2 import SubscribeRequest, SubscribeResponse

SUBSCRIBE = "/tidemark.v1.EventLogService/Subscribe"
UNKNOWN = -1
"""The position before the first response, which says where the log ends."""


class Subscriber:
    """One stream, from the head of the log on."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[int, int, float]] = []
        self.position = UNKNOWN
        """Everything up to here has come."""
        self._moved = asyncio.Event()

    async def run(self, channel: grpc.aio.Channel) -> None:
        """Receives until cancelled.

        Raises:
            BenchmarkFailed: an event is missing, or came twice.
        """
        call: grpc.aio.UnaryStreamMultiCallable[SubscribeRequest, SubscribeResponse]
        call = channel.unary_stream(
            SUBSCRIBE,
            request_serializer=SubscribeRequest.SerializeToString,
            response_deserializer=SubscribeResponse.FromString,
        )
        async for response in call(SubscribeRequest(from_head=Empty())):
            now = time.monotonic()
            events = response.events
            position = response.checkpoint.position
            if events:
                self.deliveries.append((events[0].position, events[-1].position, now))
            if self.position != UNKNOWN and (
                len(events) != position - self.position
                or [event.position for event in events]
                != list(range(self.position + 1, position + 1))
            ):
                raise BenchmarkFailed(f"Not every event after {self.position} has come once")
            self.position = position
            self._moved.set()
        raise BenchmarkFailed(f"The stream ended at {self.position}")

    async def reach(self, position: int) -> None:
        """Returns once everything up to a position has come."""
        while self.position < position:
            self._moved.clear()
            await self._moved.wait()


async def obey(order: LiveOrder) -> None:
    """Does what it is told."""
    subscribers = [Subscriber() for _ in range(order.subscribers)]
    async with grpc.aio.insecure_channel(order.address) as channel, asyncio.TaskGroup() as group:
        tasks = [group.create_task(subscriber.run(channel)) for subscriber in subscribers]
        for subscriber in subscribers:
            await subscriber.reach(0)
        say(READY)
        cpu_s = time.process_time()
        target = int(await asyncio.to_thread(sys.stdin.readline))
        for subscriber in subscribers:
            await subscriber.reach(target)
        for task in tasks:
            task.cancel()
    report = LiveReport(
        deliveries=[subscriber.deliveries for subscriber in subscribers],
        cpu_s=time.process_time() - cpu_s,
        peak_rss_bytes=usage.peak_rss_bytes(os.getpid()),
    )
    say(report.to_json())


if __name__ == "__main__":
    asyncio.run(obey(LiveOrder.from_json(sys.stdin.readline())))
