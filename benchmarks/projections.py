"""How far a query service has come, asked again and again."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from benchmarks.clients import EVENT_LOG
from benchmarks.errors import BenchmarkFailed
from shared.client.stubs import Stub
from tidemark.v1 import query_pb2
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.query_pb2 import ListProjectionsRequest, ProjectionState, RebuildProjectionRequest

PROJECTIONS = query_pb2.DESCRIPTOR.services_by_name["ProjectionService"]
COPY = "copy of the log"
CATCH_UP_S = 600.0


@dataclass(frozen=True)
class Progress:
    """What a query service said of itself.

    Args:
        at: when it was asked, by the monotonic clock.
        positions: of its copy and of each projection.
    """

    at: float
    positions: Mapping[str, int]

    @property
    def least(self) -> int:
        """The position that all have reached."""
        return min(self.positions.values())


async def progress(address: str, position: int, interval_s: float) -> AsyncGenerator[Progress]:
    """Asks in intervals until the copy and all projections have reached a position.

    Raises:
        BenchmarkFailed: a projection is faulted, or they took longer than 10 minutes.
    """
    deadline = time.monotonic() + CATCH_UP_S
    async with grpc.aio.insecure_channel(address) as channel:
        while time.monotonic() < deadline:
            found = await _progress(channel)
            yield found
            if found.least >= position:
                return
            await asyncio.sleep(interval_s)
    raise BenchmarkFailed(f"The query service did not reach {position}")


async def until_caught_up(address: str, position: int) -> None:
    """Returns once the copy and all projections have reached a position."""
    async with aclosing(progress(address, position, interval_s=0.05)) as all_progress:
        async for _ in all_progress:
            pass


async def names(address: str) -> list[str]:
    """Of all projections."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = Stub(channel, PROJECTIONS)
        response = await stub.ListProjections(ListProjectionsRequest())
        return [each.name for each in response.projections]


async def rebuild(address: str, name: str) -> int:
    """Builds a projection anew; returns once the new one answers, with its position."""
    position = 0
    is_done = False
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = Stub(channel, PROJECTIONS)
        async for response in stub.RebuildProjection(RebuildProjectionRequest(name=name)):
            position, is_done = response.position, response.done
    if not is_done:
        raise BenchmarkFailed(f"The rebuild of {name} ended at {position}")
    return position


async def _progress(channel: grpc.aio.Channel) -> Progress:
    stub: Any = Stub(channel, PROJECTIONS)
    event_log: Any = Stub(channel, EVENT_LOG)
    at = time.monotonic()
    positions = {}
    async for answer in event_log.Subscribe(SubscribeRequest(from_head=Empty(), stop_at_head=True)):
        positions[COPY] = answer.checkpoint.head_position
    for each in (await stub.ListProjections(ListProjectionsRequest())).projections:
        if each.state == ProjectionState.PROJECTION_STATE_FAULTED:
            raise BenchmarkFailed(f"{each.name} stopped before {each.fault_position}: {each.fault}")
        positions[each.name] = each.position
    return Progress(at, positions)
