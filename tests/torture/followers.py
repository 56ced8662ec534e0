"""Clients that stay: they follow a log, or watch an aggregate, whatever breaks their stream."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from shared.event_log_service import HEARTBEAT_S
from tests.history.recorded import Delivery, Subscription, Unknown, Watch, Watching
from tests.services.deployment import QueryClient, tenant
from tests.torture.recorder import RETRY_S, Line, failure_of
from tidemark.internal.v1.stored_pb2 import StoredSubscribeResponse
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.ship_pb2 import WatchShipRequest

SILENCE_S = 3 * HEARTBEAT_S
"""After which one gives a stream up, and its connection."""

ENDED = Unknown("OK: it ended the stream")
"""A service that stops says so."""

_Stream = grpc.aio.UnaryStreamCall[SubscribeRequest, StoredSubscribeResponse]


class Subscriber:
    """Follows a log across whatever breaks its stream.

    Args:
        subscription: what it wants; it writes there what comes.
        line: to the service that it reads from.
    """

    def __init__(self, subscription: Subscription, line: Line[Any]) -> None:
        self._subscription = subscription
        self._line = line
        self.position = subscription.after_position
        self.last_error = ""
        self.newest: Delivery | None = None
        self._digest = b""
        self._has_begun = False

    async def until(self, position: int, patience: int = 1_000_000) -> None:
        """Reads until it has come to a position.

        Args:
            position: of its checkpoint.
            patience: responses after which it drops the stream and comes back.
        """
        while self.position < position:
            try:
                await self._read(position, patience)
            except grpc.aio.AioRpcError as error:
                self.last_error = f"{error.code().name}: {error.details()}"
                self._subscription.ends.append(failure_of(error))
            except TimeoutError:
                self.last_error = "silence"
                self._line.unheard(limit=1)
            await asyncio.sleep(RETRY_S / 2)

    async def from_head(self) -> bool:
        """Begins behind the head, with one response; whether that came.

        What follows the head is known only of a server that has said before where it ends. So this
        hears of its head on another stream, which is still open when the first response comes: then
        both are of the same connection.
        """
        try:
            with _stream(
                self._line, self._subscription, SubscribeRequest(from_head=Empty())
            ) as other:
                if (response := await _next(other)) is None:
                    return False
                self._subscription.after_position = response.checkpoint.position
                await self._read(response.checkpoint.position + 1, patience=1)
                return self.newest is not None and not other.done()
        except grpc.aio.AioRpcError as error:
            self._subscription.ends.append(failure_of(error))
            return False
        except TimeoutError:
            self._line.unheard(limit=1)
            return False

    def _request(self) -> SubscribeRequest:
        """Where it begins, or goes on."""
        wanted = self._subscription
        request = SubscribeRequest(filter=wanted.event_filter)
        if self.newest is None and wanted.from_head:
            request.from_head.SetInParent()
        elif not self._has_begun and wanted.from_time is not None:
            request.from_time.CopyFrom(wanted.from_time)
        else:
            request.after_position = self.position
            request.after_digest = self._digest
        return request

    async def _read(self, position: int, patience: int) -> None:
        connection: list[Delivery] = []
        wanted = self._subscription
        if not self._has_begun and not any(map(_events, wanted.connections)):
            # Nothing has come yet, so this is the first again, perhaps of a server further behind.
            wanted.connections.clear()
        wanted.connections.append(connection)
        with _stream(self._line, wanted, self._request()) as stream:
            while self.position < position and len(connection) < patience:
                if (response := await _next(stream)) is None:
                    wanted.ends.append(ENDED)
                    return
                checkpoint = response.checkpoint
                self.newest = Delivery(
                    time.monotonic(),
                    tuple(response.events),
                    checkpoint.position,
                    checkpoint.digest,
                    checkpoint.head_position,
                )
                connection.append(self.newest)
                self.position = checkpoint.position
                self._digest = checkpoint.digest
                self._has_begun |= wanted.from_time is None or not _is_before(
                    checkpoint.head_time, wanted.from_time
                )


def _events(connection: list[Delivery]) -> list[bytes]:
    return [event for delivery in connection for event in delivery.events]


def _is_before(time: Timestamp, start: Timestamp) -> bool:
    return (time.seconds, time.nanos) < (start.seconds, start.nanos)


@contextmanager
def _stream(line: Line[Any], wanted: Subscription, request: SubscribeRequest) -> Iterator[_Stream]:
    """A stream of the events that a subscription wants, for the length of a block."""
    subscribe = line.client.channel.unary_stream(
        "/tidemark.v1.EventLogService/Subscribe",
        request_serializer=SubscribeRequest.SerializeToString,
        response_deserializer=StoredSubscribeResponse.FromString,
    )
    stream = subscribe(request, metadata=tenant(wanted.tenant_id))
    try:
        yield stream
    finally:
        stream.cancel()


async def _next(stream: _Stream) -> StoredSubscribeResponse | None:
    """The next response; None: the stream has ended well.

    Raises:
        TimeoutError: there was nothing for too long.
        grpc.aio.AioRpcError: it broke.
    """
    async with asyncio.timeout(SILENCE_S):
        response = await stream.read()
    return response if isinstance(response, StoredSubscribeResponse) else None


async def watch(record: Watch, line: Line[QueryClient]) -> None:
    """Watches until cancelled, across whatever breaks the stream."""
    method = record.request.DESCRIPTOR.name.removesuffix("Request")
    seen = 0
    while True:
        request = type(record.request)()
        request.CopyFrom(record.request)
        request.MergeFrom(type(record.request)(min_position=seen))
        connection = Watching(request.min_position)  # type: ignore[attr-defined]  # both have it
        record.connections.append(connection)
        client = line.client
        stub = client.ships if isinstance(request, WatchShipRequest) else client.users
        call = getattr(stub, method)(request, metadata=tenant(record.tenant_id))
        try:
            async for response in _responses(call):
                connection.responses.append((time.monotonic(), response))
                seen = response.position  # type: ignore[attr-defined]  # every answer has one
        except grpc.aio.AioRpcError as error:
            connection.end = time.monotonic(), failure_of(error)
        except TimeoutError:
            line.unheard(limit=1)
        await asyncio.sleep(RETRY_S)


async def _responses(call: grpc.aio.UnaryStreamCall[Message, Message]) -> AsyncIterator[Message]:
    try:
        while True:
            async with asyncio.timeout(SILENCE_S):
                response = await call.read()
            if not isinstance(response, Message):
                return
            yield response
    finally:
        call.cancel()
