"""What no client of gRPC sends: a link on which some bytes of a request become others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK_BYTES = 64 << 10

PLACEHOLDER = "to-be-forged"
"""What a client says, in a header or a path: gRPC sends both as they are."""


@asynccontextmanager
async def forging(target: str, forged: bytes) -> AsyncIterator[str]:
    """An address from which all goes to the target, HOST:PORT, the placeholder as something else.

    Args:
        target: where to.
        forged: what becomes of the placeholder; filled up with what stands there.
    """
    original = PLACEHOLDER.encode()
    forged += original[len(forged) :]
    assert len(forged) == len(original), "then lengths before it would be wrong"
    host, _, port = target.rpartition(":")

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, to_server, original, forged))
                pumps.create_task(_pump(from_server, writer))
        finally:
            to_server.close()
            writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _pump(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    original: bytes = b"",
    forged: bytes = b"",
) -> None:
    # Requests are small: none is in two pieces.
    while chunk := await source.read(CHUNK_BYTES):
        sink.write(chunk.replace(original, forged) if original else chunk)
        await sink.drain()
    sink.close()
