"""What workers receive, told to the test as it happens."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.relay.program import WAIT_S


@dataclass(frozen=True)
class Arrival:
    """A task as its worker sees it."""

    task: str
    id: str
    correlation_id: str
    headers: dict[str, Any]
    is_redelivered: bool
    event: dict[str, Any]


class Arrivals:
    """All tasks that workers have begun, and those that are done. Made by `listening`."""

    def __init__(self) -> None:
        self.address = ""
        """HOST:PORT."""
        self.begun: list[Arrival] = []
        self.done: set[str] = set()
        self._held: Arrival | None = None
        self._changed = asyncio.Condition()
        self._leave = asyncio.Event()
        self._leave.set()

    async def until_begun(self, count: int) -> None:
        """Returns once so many tasks have begun, repeats included."""
        await self._until(lambda: len(self.begun) >= count)

    async def until_done(self, ids: Collection[str]) -> None:
        """Returns once all these tasks are done."""
        await self._until(lambda: self.done.issuperset(ids))

    @asynccontextmanager
    async def in_hand(self) -> AsyncIterator[Arrival]:
        """A task that a worker has begun, and does not end for the length of a block."""
        self._leave.clear()
        try:
            await self._until(lambda: self._held is not None)
            assert self._held is not None
            yield self._held
        finally:
            self._held = None
            self._leave.set()

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One task."""
        arrival = Arrival(**json.loads(await reader.readline()))
        await self._note(lambda: self._begin(arrival))
        leave = asyncio.create_task(self._leave.wait())
        killed = asyncio.create_task(reader.read())
        if self._held is arrival:
            await asyncio.wait({leave, killed}, return_when=asyncio.FIRST_COMPLETED)
        if not killed.done():
            await self._note(lambda: self.done.add(arrival.id))
            writer.write(b"!")
            await killed
        leave.cancel()
        writer.close()

    def _begin(self, arrival: Arrival) -> None:
        self.begun.append(arrival)
        if not self._leave.is_set() and self._held is None:
            self._held = arrival

    async def _note(self, change: Callable[[], None]) -> None:
        async with self._changed:
            change()
            self._changed.notify_all()

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with self._changed, asyncio.timeout(WAIT_S):
            await self._changed.wait_for(holds)


@asynccontextmanager
async def listening() -> AsyncIterator[Arrivals]:
    """Listens for the length of a block."""
    arrivals = Arrivals()
    server = await asyncio.start_server(arrivals.hear, "127.0.0.1", 0)
    arrivals.address = "127.0.0.1:{1}".format(*server.sockets[0].getsockname())
    async with server:
        yield arrivals
