"""A query service that follows a log of the test's own, which says of the origin what it wants."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from examples.services import start_query_service
from shared.aggregates.ship import SHIP
from shared.event_log_service import EventLogService, Origin
from shared.log.log import AggregateKey
from shared.log.memory import MemoryLog
from shared.rpc import methods_of
from shared.server import Server
from tests.log.builders import commit
from tests.services.deployment import EVENT_LOG, QueryClient
from tidemark.v1.ship_pb2 import ShipRegistered


@asynccontextmanager
async def following(
    folder: Path, log: MemoryLog, origin: Callable[[], Origin], *options: str
) -> AsyncIterator[QueryClient]:
    """The query service, as a process of its own."""
    async with Server("127.0.0.1:0") as upstream:
        upstream.add(EVENT_LOG, methods_of(EventLogService(log, [SHIP], origin)))
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
