"""Reading a log stream, with a bound on every wait."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from shared.security.tenants import EVERY_TENANT
from tests.services.commanding import CALL_S
from tests.services.deployment import tenant
from tidemark.v1.event_pb2 import (
    Checkpoint,
    EventFilter,
    RecordedEvent,
    SubscribeRequest,
    SubscribeResponse,
)


class Subscription:
    """An open stream, and what it has delivered."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.responses: list[SubscribeResponse] = []

    @property
    def events(self) -> list[RecordedEvent]:
        """All that were delivered, in order."""
        return [event for response in self.responses for event in response.events]

    @property
    def checkpoint(self) -> Checkpoint:
        """The last one."""
        return self.responses[-1].checkpoint

    async def next(self, within: float = CALL_S) -> SubscribeResponse | None:
        """The next response; None: the stream has ended well."""
        async with asyncio.timeout(within):
            response = await self._call.read()
        if response is grpc.aio.EOF:
            return None
        assert isinstance(response, SubscribeResponse)
        self.responses.append(response)
        return response

    async def to_position(self, position: int) -> None:
        """Reads until the checkpoint is there."""
        while not self.responses or self.checkpoint.position < position:
            assert await self.next() is not None, "the stream ended early"

    async def to_head(self) -> None:
        """Reads until it has caught up with its server."""
        while not self.responses or self.checkpoint.position < self.checkpoint.head_position:
            assert await self.next() is not None, "the stream ended early"

    async def to_count(self, count: int) -> list[RecordedEvent]:
        """Reads until there are as many events."""
        while len(self.events) < count:
            assert await self.next() is not None, "the stream ended early"
        return self.events

    async def to_end(self) -> None:
        """Reads until the stream ends; it may end with an error."""
        while await self.next() is not None:
            pass


@asynccontextmanager
async def subscribed(
    log: Any, request: SubscribeRequest | None = None, tenant_id: str = "default"
) -> AsyncIterator[Subscription]:
    """A stream for the length of a block.

    Args:
        log: the stub of an EventLogService.
        request: where to start, what to send.
        tenant_id: whose events.
    """
    call = log.Subscribe(request or SubscribeRequest(), metadata=tenant(tenant_id))
    try:
        yield Subscription(call)
    finally:
        call.cancel()


async def read(
    log: Any, request: SubscribeRequest | None = None, tenant_id: str = "default"
) -> Subscription:
    """What there is up to the head, and no further."""
    stopping = SubscribeRequest(stop_at_head=True)
    stopping.MergeFrom(request or SubscribeRequest())
    async with subscribed(log, stopping, tenant_id) as subscription:
        await subscription.to_end()
        return subscription


async def history(log: Any, *aggregate_ids: str, tenant_id: str = "default") -> list[RecordedEvent]:
    """All events of aggregates; without ids, all of the tenant's."""
    request = SubscribeRequest(filter=EventFilter(aggregate_ids=aggregate_ids))
    return (await read(log, request, tenant_id)).events


async def reached(log: Any, position: int) -> None:
    """Returns once the service's log has an event."""
    request = SubscribeRequest(from_head=Empty())
    async with subscribed(log, request, EVERY_TENANT) as subscription:
        await subscription.to_position(position)


def payload_names(events: Iterable[RecordedEvent]) -> list[str]:
    """The kinds of events, without their package."""
    return [event.payload.type_url.rpartition(".")[2] for event in events]


def versions(events: Iterable[RecordedEvent]) -> list[int]:
    """The versions of events."""
    return [event.version for event in events]
