"""Following a log over gRPC: one endless sequence of pages, across whatever cuts the connection."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import grpc
import structlog
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shared.errors import DataLoss
from shared.event_log_service import HEARTBEAT_S
from shared.log.log import MAX_PAGE_EVENTS, Head
from shared.outage import Outage
from shared.rpc import ERROR_DOMAIN
from shared.security.misconfigured import Misconfigured
from shared.security.tenants import EVERY_TENANT, TENANT_HEADER
from shared.security.upstream import Upstream
from shared.telemetry.metrics import UPSTREAM_LOST
from tidemark.internal.v1.stored_pb2 import StoredSubscribeResponse
from tidemark.v1.event_pb2 import SubscribeRequest

METHOD = "/tidemark.v1.EventLogService/Subscribe"
SILENCE_S = 3 * HEARTBEAT_S
"""After which a stream is taken for broken."""

SILENT = "SILENT"

MIN_BACKOFF_S = 0.1
MAX_BACKOFF_S = 1.0

logger = structlog.get_logger(__name__)


async def follow(
    upstream: Upstream,
    resume_from: Callable[[], Head],
    on_lost: Callable[[], None] = lambda: None,
) -> AsyncGenerator[StoredSubscribeResponse, None]:
    """The whole log of another service, for every tenant, as it grows.

    Args:
        upstream: a service that serves EventLogService.
        resume_from: what the reader has, asked whenever a connection is made.
        on_lost: told when a connection that was followed is lost, or one has fallen silent.

    Raises:
        DataLoss: LOG_DIVERGED: the log there is not the one that was read up to here. Reading on
            cannot mend that.
    """
    backoff = MIN_BACKOFF_S
    outage = Outage("upstream_away", upstream=upstream.upstream)

    def lost(reason: str, why: str) -> None:
        UPSTREAM_LOST.labels(reason).inc()
        if is_following or reason == SILENT:
            on_lost()
        outage.failed(reason, level=logging.WARNING, why=why)

    while True:
        have = resume_from()
        is_following = False
        try:
            async with aclosing(_stream(upstream, have)) as responses:
                async for response in responses:
                    if not is_following:
                        outage.succeeded()
                        logger.info("following", upstream=upstream.upstream, after=have.position)
                    is_following = True
                    backoff = MIN_BACKOFF_S
                    yield response
            lost("OK", "It ended the stream")
        except grpc.aio.AioRpcError as error:
            _raise_if_diverged(error, have)
            lost(error.code().name, error.details() or "")
        except TimeoutError:
            lost(SILENT, f"It said nothing for {SILENCE_S} s")
        except (OSError, Misconfigured) as error:
            lost("CREDENTIALS", str(error))
        await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
        backoff = min(2 * backoff, MAX_BACKOFF_S)


async def _stream(upstream: Upstream, have: Head) -> AsyncGenerator[StoredSubscribeResponse, None]:
    """One stream, on a connection of its own: that of a stream which fell silent may be dead.

    Raises:
        TimeoutError: it has fallen silent.
    """
    channel, credentials = await upstream.connect()
    async with channel:
        subscribe = channel.unary_stream(
            METHOD,
            request_serializer=SubscribeRequest.SerializeToString,
            response_deserializer=StoredSubscribeResponse.FromString,
        )
        request = SubscribeRequest(
            after_position=have.position,
            after_digest=have.digest,
            max_batch_size=MAX_PAGE_EVENTS,
        )
        stream = subscribe(request, metadata=((TENANT_HEADER, EVERY_TENANT), *credentials))
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    response = await stream.read()
                if not isinstance(response, StoredSubscribeResponse):  # the end
                    return
                yield response
        finally:
            stream.cancel()


def _raise_if_diverged(error: grpc.aio.AioRpcError, have: Head) -> None:
    if error.code() is grpc.StatusCode.OUT_OF_RANGE or _reason(error) == "LOG_DIVERGED":
        raise DataLoss(
            "LOG_DIVERGED",
            f"The upstream's log does not contain what was read from it up to {have.position}:"
            f" {error.details()}",
        ) from error


def _reason(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both have
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
            return str(info.reason)
    return ""
