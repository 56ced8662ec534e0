"""The Python client in tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest

from shared.client.connection import Connection
from shared.errors import (
    TidemarkError,
)
from tests.services.deployment import Deployment
from tidemark.v1.event_pb2 import RecordedEvent, SubscribeResponse

SOON_S = 10.0


def connection_to(both: Deployment, tenant_id: str = "default") -> Connection:
    """To both services."""
    return Connection(both.command.address, both.query.address, tenant_id)


async def failure(call: Awaitable[object]) -> TidemarkError:
    """What a call is refused with."""
    with pytest.raises(TidemarkError) as raised:
        await call
    return raised.value


async def to_count(responses: AsyncIterator[SubscribeResponse], count: int) -> list[RecordedEvent]:
    """The next events, so many."""
    events: list[RecordedEvent] = []
    async with asyncio.timeout(SOON_S):
        while len(events) < count:
            events += (await anext(responses)).events
    return events
