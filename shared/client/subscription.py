"""A subscription that outlives its connections."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from shared.client.connection import Connection
from shared.client.errors import error_of
from shared.client.retrying import OUTCOME_UNKNOWN, Backoff
from shared.errors import TidemarkError, Unavailable
from shared.following import SILENCE_S
from tidemark.v1.event_pb2 import Checkpoint, SubscribeRequest, SubscribeResponse

METHOD = "/tidemark.v1.EventLogService/Subscribe"

RESUMABLE = OUTCOME_UNKNOWN | {
    # Others were first to come back to a service that was restarted.
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    # The token has expired, and the file may have the next one.
    grpc.StatusCode.UNAUTHENTICATED,
}


async def subscribe(
    connection: Connection,
    tenant_id: str | None,
    request: SubscribeRequest,
    timeout_s: float,
    on_interruption: Callable[[TidemarkError], object],
) -> AsyncGenerator[SubscribeResponse, None]:
    """See `shared.client.Client.subscribe`."""
    request = _copied(request)
    backoff = Backoff()
    deadline = time.monotonic() + timeout_s
    is_first = True
    while True:
        try:
            async with aclosing(_stream(connection, tenant_id, request)) as responses:
                async for response in responses:
                    is_first = False
                    backoff.reset()
                    _resume_from(request, response.checkpoint)
                    yield response
            if request.stop_at_head:
                return
            failure: TidemarkError = Unavailable("ENDED", "The stream has ended")
        except grpc.aio.AioRpcError as error:
            failure = error_of(error)
            if error.code() not in (OUTCOME_UNKNOWN if is_first else RESUMABLE):
                raise failure from error
        except TimeoutError:
            failure = Unavailable("SILENT", f"Nothing was heard for {SILENCE_S} s")
        delay = backoff.delay(failure.retry_after)
        if is_first and time.monotonic() + delay >= deadline:
            raise failure
        on_interruption(failure)
        await asyncio.sleep(delay)


async def _stream(
    connection: Connection, tenant_id: str | None, request: SubscribeRequest
) -> AsyncGenerator[SubscribeResponse, None]:
    """One stream, on a connection of its own: that of a stream which fell silent may be dead.

    Raises:
        TimeoutError: it has fallen silent.
    """
    async with connection.channel(connection.queries) as channel:
        call = channel.unary_stream(
            METHOD,
            request_serializer=SubscribeRequest.SerializeToString,
            response_deserializer=SubscribeResponse.FromString,
        )
        stream = call(request, metadata=connection.metadata(tenant_id))
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    response = await stream.read()
                if not isinstance(response, SubscribeResponse):  # the end
                    return
                yield response
        finally:
            stream.cancel()


def _resume_from(request: SubscribeRequest, checkpoint: Checkpoint) -> None:
    if request.HasField("from_time") and _nanoseconds(checkpoint.head_time) < _nanoseconds(
        request.from_time
    ):
        # It has not begun, and what comes next may be from before that time.
        return
    request.after_position = checkpoint.position
    request.after_digest = checkpoint.digest


def _nanoseconds(time: Timestamp) -> int:
    return time.seconds * 1_000_000_000 + time.nanos


def _copied(request: SubscribeRequest) -> SubscribeRequest:
    copied = SubscribeRequest()
    copied.CopyFrom(request)
    return copied
