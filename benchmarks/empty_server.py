"""The least that a call can cost: a server that answers everything at once, with nothing.

`python -m benchmarks.empty_server serve` runs it with the services' own options; the rate that it
reaches is the ceiling of any service on this build of gRPC.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import typer

from shared.call import ServicerContext
from shared.process import announce
from shared.server import OPTIONS

SERVICE = "benchmarks.Empty"
UNARY = f"/{SERVICE}/Unary"
STREAM = f"/{SERVICE}/Stream"
REPEAT = f"/{SERVICE}/Repeat"
BIDIRECTIONAL = f"/{SERVICE}/Bidirectional"

app = typer.Typer(add_completion=False)


@app.callback()
def main() -> None:
    """Answers every call with nothing."""


@app.command()
def serve(listen: str = "127.0.0.1:0") -> None:
    """Serve until SIGTERM or Ctrl-C."""
    asyncio.run(_serve(listen))


async def unary(_request: bytes, _context: ServicerContext) -> bytes:
    """Answers with an empty message."""
    return b""


async def stream(request: bytes, context: ServicerContext) -> None:
    """Answers with as many empty messages as the request says in decimal digits."""
    for _ in range(int(request)):
        await context.write(b"")


async def repeat(request: bytes, context: ServicerContext) -> None:
    """Answers with a message, again and again: the request says how often in decimal digits, and
    after a space which.
    """
    count, _, message = request.partition(b" ")
    for _ in range(int(count)):
        await context.write(message)


async def bidirectional(requests: AsyncIterator[bytes], context: ServicerContext) -> None:
    """Answers each message with an empty one."""
    async for _ in requests:
        await context.write(b"")


async def _serve(listen: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = grpc.aio.server(options=OPTIONS)
    methods: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Repeat": grpc.unary_stream_rpc_method_handler(repeat),
        "Bidirectional": grpc.stream_stream_rpc_method_handler(bidirectional),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port(listen)
    await server.start()
    announce("empty_server", f"{listen.rpartition(':')[0]}:{port}")
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    app()
