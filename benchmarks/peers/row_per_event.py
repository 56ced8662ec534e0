"""What SQLite alone can do: a store with a row for each event, and hardly anything around it.

`python -m benchmarks.peers.row_per_event serve --database PATH` takes the messages that
BulkCommandService takes, over a stream of the same kind. It stores the payload of each command as
an event, without judging it, under the next version of its user's stream, and answers a message
with an empty one once its events are durable: WAL, `synchronous=FULL`. All messages that have
arrived share a transaction.
"""

import asyncio
import queue
import signal
import sqlite3
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from shared.call import ServicerContext
from shared.process import announce
from shared.server import OPTIONS
from tidemark.v1.command_pb2 import ExecuteRequest
from tidemark.v1.user_pb2 import ChangeUserBalance

SERVICE = "benchmarks.RowPerEvent"
EXECUTE = f"/{SERVICE}/Execute"

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE streams (stream INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    version INTEGER NOT NULL,
    record BLOB NOT NULL
);
CREATE UNIQUE INDEX events_by_version ON events (stream, version);
"""

MAX_MESSAGES = 64
"""Of one stream, read and not answered."""

Event = tuple[str, bytes]
"""The key of its stream, and its record."""

app = typer.Typer(add_completion=False)


class Store:
    """The file, and the thread that writes to it.

    Args:
        path: of a database that does not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._arrived: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._streams: dict[str, int] = {}
        self._versions: list[int] = []
        self._position = 0
        self._loop = asyncio.get_running_loop()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript(SCHEMA)
        self._thread = threading.Thread(target=self._write_all, name="writer")
        self._thread.start()

    def append(self, events: list[Event]) -> asyncio.Future[None]:
        """Done once the events are durable."""
        batch = _Batch(events, self._loop.create_future())
        self._arrived.put(batch)
        return batch.durable

    def close(self) -> None:
        """Writes what has arrived."""
        self._arrived.put(None)
        self._thread.join()
        self._db.close()

    def _write_all(self) -> None:
        while (first := self._arrived.get()) is not None:
            batches = [first]
            is_last = False
            while not self._arrived.empty():
                if (batch := self._arrived.get()) is None:
                    is_last = True
                    break
                batches.append(batch)
            self._write([event for batch in batches for event in batch.events])
            self._loop.call_soon_threadsafe(_settle, batches)
            if is_last:
                break

    def _write(self, events: list[Event]) -> None:
        streams: list[tuple[int, str]] = []
        rows: list[tuple[int, int, int, bytes]] = []
        for key, record in events:
            stream = self._streams.get(key)
            if stream is None:
                stream = self._streams[key] = len(self._versions)
                self._versions.append(0)
                streams.append((stream, key))
            self._versions[stream] += 1
            self._position += 1
            rows.append((self._position, stream, self._versions[stream], record))
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO streams VALUES (?, ?)", streams)
        self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")


class _Batch:
    """The events of one message."""

    def __init__(self, events: list[Event], durable: asyncio.Future[None]) -> None:
        self.events = events
        self.durable = durable


def _settle(batches: list[_Batch]) -> None:
    for batch in batches:
        if not batch.durable.done():
            batch.durable.set_result(None)


def count_events(path: Path) -> int:
    """How many events there are in the file of a store that was closed."""
    db = sqlite3.connect(path)
    try:
        (count,) = db.execute("SELECT count(*) FROM events").fetchone()
    finally:
        db.close()
    return int(count)


async def execute(store: Store, requests: AsyncIterator[bytes], context: ServicerContext) -> None:
    """Answers each message with an empty one, once its events are durable."""
    appended: asyncio.Queue[asyncio.Future[None] | None] = asyncio.Queue(MAX_MESSAGES)

    async def read() -> None:
        async for request in requests:
            await appended.put(store.append(_events(request)))
        await appended.put(None)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        while (durable := await appended.get()) is not None:
            await durable
            await context.write(b"")


def _events(request: bytes) -> list[Event]:
    commands = ExecuteRequest.FromString(request).commands
    payloads = [command.value for command in commands]
    return [(ChangeUserBalance.FromString(payload).user_id, payload) for payload in payloads]


@app.callback()
def main() -> None:
    """Stores the payload of each command as an event."""


@app.command()
def serve(database: Annotated[Path, typer.Option()], listen: str = "127.0.0.1:0") -> None:
    """Serve until SIGTERM or Ctrl-C."""
    asyncio.run(_serve(database, listen))


async def _serve(database: Path, listen: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = Store(database)
    server = grpc.aio.server(options=OPTIONS)
    methods: dict[str, Any] = {
        "Execute": grpc.stream_stream_rpc_method_handler(partial(execute, store))
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port(listen)
    await server.start()
    announce("row_per_event", f"{listen.rpartition(':')[0]}:{port}")
    await stop.wait()
    await server.stop(None)
    store.close()


if __name__ == "__main__":
    app()
