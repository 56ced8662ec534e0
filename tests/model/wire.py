"""In the place of gRPC: what a handler is given of its call, and what a replica reads from.

What is sent takes time, and is lost with the process that it comes from.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_status import rpc_status

from shared.call import Call
from shared.drain import Drain
from shared.errors import TidemarkError, Unavailable
from shared.event_log_service import EventLogService
from shared.rpc import status_of
from shared.security.tenants import TENANT_HEADER
from shared.security.upstream import Upstream
from tests.model.process import Process
from tests.model.simulation import running_simulation
from tidemark.v1.event_pb2 import SubscribeRequest

MAX_ON_THE_WAY = 2
"""Messages of a stream; beyond, its sender waits."""

Metadata = Sequence[tuple[str, str]]
Server = Callable[[], tuple[Process, EventLogService | None]]
"""Gives the present life of a service, and what it serves its log with if it does so yet."""


class Context:
    """What a handler knows of its call, of which nobody reads more than the result."""

    def __init__(self, metadata: Metadata, timeout_s: float | None = None) -> None:
        self._metadata = metadata
        self._until = None if timeout_s is None else running_simulation().time() + timeout_s

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def time_remaining(self) -> float | None:
        return None if self._until is None else self._until - running_simulation().time()

    async def send_initial_metadata(self, _metadata: Any) -> None:
        await asyncio.sleep(running_simulation().delay())

    async def write(self, _message: bytes) -> None:
        await asyncio.sleep(running_simulation().delay())


def call_of(tenant_id: str, timeout_s: float) -> Call:
    """A call by somebody of a tenant."""
    context: Any = Context([(TENANT_HEADER, tenant_id)], timeout_s)
    return Call(context, Drain())


class Stream(Context):
    """One Subscribe: a server writes, a reader reads."""

    def __init__(
        self,
        server: Server,
        request: SubscribeRequest,
        metadata: Metadata,
        parse: Callable[[bytes], Any],
    ) -> None:
        super().__init__(metadata)
        self._process, event_log = server()
        self._parse = parse
        self._on_the_way: asyncio.Queue[bytes] = asyncio.Queue(MAX_ON_THE_WAY)
        context: Any = self
        call = Call(context, Drain())
        serving = self._away() if event_log is None else event_log.subscribe(request, call)
        self._serving = running_simulation().create_task(serving, context=self._process.context)
        if not self._process.is_alive:
            self._serving.cancel()

    async def read(self) -> Any:
        """The next response, or EOF.

        Raises:
            grpc.aio.AioRpcError: there is none, for another reason.
        """
        reading = asyncio.ensure_future(self._on_the_way.get())
        try:
            await asyncio.wait([reading, self._serving], return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and self._process.is_alive:
                return self._parse(reading.result())
        finally:
            reading.cancel()
        if self._serving.cancelled() or not self._process.is_alive:
            raise _rpc_error(Unavailable("CUT", "The connection is cut"))
        error = self._serving.exception()
        if isinstance(error, TidemarkError):
            raise _rpc_error(error)
        self._serving.result()
        return grpc.aio.EOF

    def cancel(self) -> None:
        """Wants no more of it."""
        self._serving.cancel()

    async def write(self, message: bytes) -> None:
        await super().write(message)
        await self._on_the_way.put(message)

    async def _away(self) -> None:
        raise Unavailable("AWAY", "It has not begun to serve")


def _rpc_error(error: TidemarkError) -> grpc.aio.AioRpcError:
    status = rpc_status.to_status(status_of(error))
    trailers = grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailers, status.details)


class Channel:
    """In the place of a gRPC channel."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def __aenter__(self) -> "Channel":
        return self

    async def __aexit__(self, *_: object) -> None:
        """There is nothing to close."""

    def unary_stream(
        self, _method: str, *, response_deserializer: Callable[[bytes], Any], **_: Any
    ) -> Callable[..., Stream]:
        """A function that subscribes."""

        def subscribe(request: SubscribeRequest, *, metadata: Metadata) -> Stream:
            return Stream(self._server, request, metadata, response_deserializer)

        return subscribe


@dataclass(frozen=True, kw_only=True)
class InProcess(Upstream):
    """An upstream in this very process."""

    server: Server

    async def connect(self) -> tuple[Any, Metadata]:
        await asyncio.sleep(running_simulation().delay())
        return Channel(self.server), ()
