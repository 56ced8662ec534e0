"""A TCP proxy between any two parties, whose link can be cut, delayed or half-broken."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto

CHUNK_BYTES = 64 << 10


class Mode(Enum):
    """What a link does."""

    PASS = auto()
    CUT = auto()
    """Connections are reset, new ones as soon as they are made."""
    SILENT = auto()
    """Half-open: nothing that is sent arrives, nothing is closed. Neither are connections of that
    time ever heard of again: what was lost on them is lost."""
    HALF_CLOSED = auto()
    """The client's side is told that the server has finished; what it sends still arrives."""


class Proxy:
    """Listens on a port of its own for the target's. Made by `Proxy.to`.

    Everything that arrives is passed on before more is read, so that a slow reader is felt through
    it.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        """HOST:PORT of new connections."""
        self.address = ""
        """HOST:PORT to connect to."""
        self.delay_s = 0.0
        """How long each chunk is held up, in each direction."""
        self._mode = Mode.PASS
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def to(cls, target: str) -> AsyncIterator["Proxy"]:
        """A proxy for the length of a block."""
        proxy = cls(target)
        server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)  # ours
        port = server.sockets[0].getsockname()[1]
        proxy.address = f"127.0.0.1:{port}"
        try:
            yield proxy
        finally:
            server.close()
            proxy.set(Mode.CUT)
            for task in proxy._tasks:  # ours
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)  # ours

    @property
    def connections(self) -> int:
        """Those open now."""
        return len(self._links)

    def set(self, mode: Mode) -> None:
        """Changes what the link does, to connections that exist as well."""
        self._mode = mode
        for link in list(self._links):
            self._treat(link)

    def _treat(self, link: "_Link") -> None:
        match self._mode:
            case Mode.CUT:
                link.reset()
            case Mode.SILENT:
                link.is_silent = True
            case Mode.HALF_CLOSED:
                link.half_close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Whatever became of it: it may have been cancelled before its first step.
        task.add_done_callback(lambda _: writer.close())

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode in {Mode.CUT, Mode.HALF_CLOSED}:
            _reset(writer)
            return
        host, _, port = self.target.rpartition(":")
        try:
            to_server = await asyncio.open_connection(host, int(port))
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, to_server[1])
        self._links.add(link)
        # The mode may be another one by now.
        self._treat(link)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(link, reader, to_server[1]))
                tasks.create_task(self._pump(link, to_server[0], writer))
        finally:
            self._links.discard(link)
            to_server[1].close()

    async def _pump(
        self, link: "_Link", source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        try:
            while chunk := await source.read(CHUNK_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if link.is_silent or sink in link.finished:
                    continue
                sink.write(chunk)
                await sink.drain()
            if not link.is_silent:
                link.finish(sink)
        except OSError:
            link.reset()


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._client = client
        self._server = server
        self.is_silent = False
        self.finished: set[asyncio.StreamWriter] = set()

    def reset(self) -> None:
        """Ends it for both without a farewell."""
        _reset(self._client)
        _reset(self._server)

    def half_close(self) -> None:
        """Tells the client that no more will come."""
        self.finish(self._client)

    def finish(self, sink: asyncio.StreamWriter) -> None:
        """Tells one side that no more will come."""
        if sink not in self.finished and not sink.is_closing():
            self.finished.add(sink)
            sink.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    if writer.is_closing():
        return
    connection: socket.socket = writer.get_extra_info("socket")
    # To linger for no time is to reset.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()
