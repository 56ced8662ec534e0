"""A query service that follows a log of the test's own, which says of the origin what it wants."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from examples.services import start_query_service
from shared.aggregates.ship import SHIP
from shared.call import Call
from shared.event_log_service import EventLogService, Origin
from shared.log.log import AggregateKey
from shared.log.memory import MemoryLog
from shared.rpc import methods_of
from shared.server import Server
from tests.log.builders import commit
from tests.services.deployment import EVENT_LOG, QueryClient
from tidemark.internal.v1.stored_pb2 import StoredSubscribeResponse
from tidemark.v1.event_pb2 import Checkpoint, SubscribeRequest
from tidemark.v1.ship_pb2 import ShipRegistered

FAR_BEHIND = 1_000_000


def following(
    folder: Path, log: MemoryLog, origin: Callable[[], Origin], *options: str
) -> AbstractAsyncContextManager[QueryClient]:
    """The query service, as a process of its own."""
    return following_what(folder, EventLogService(log, [SHIP], origin), *options)


@asynccontextmanager
async def following_what(
    folder: Path, event_log: object, *options: str
) -> AsyncIterator[QueryClient]:
    """The same, of whatever answers as an EventLogService."""
    async with Server("127.0.0.1:0") as upstream:
        upstream.add(EVENT_LOG, methods_of(event_log))
        service = await start_query_service(
            folder, await upstream.start(), "127.0.0.1:0", *options, log=folder / "query.log"
        )
        client = QueryClient(service.address)
        try:
            yield client
        finally:
            await client.channel.close()
            await service.stop()


async def register(log: MemoryLog, ship_id: str) -> None:
    """Appends the first event of a ship."""
    key = AggregateKey("default", "ship", ship_id)
    await log.append([commit(key, events=[ShipRegistered(name="Aurora")])])


class Interrupted:
    """EventLogService of a log that is said to be far longer, whose first stream ends too early.

    Args:
        log: what it has sent then.
        end: ends the stream.
    """

    def __init__(self, log: MemoryLog, end: Callable[[], None]) -> None:
        self._log = log
        self._end = end

    async def subscribe(self, request: SubscribeRequest, call: Call) -> None:
        """See the contract."""
        if request.after_position:
            # It has no more to say.
            await asyncio.get_running_loop().create_future()
        page = await self._log.read(0)
        checkpoint = Checkpoint(
            position=page.position, digest=page.digest, head_position=page.position + FAR_BEHIND
        )
        await call.send(StoredSubscribeResponse(events=page.records, checkpoint=checkpoint))
        self._end()
