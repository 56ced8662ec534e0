"""Counts every call and measures how long it took."""

import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor

from shared.telemetry.metrics import CALL_SECONDS, STREAMS_ENDED, STREAMS_OPEN

Handler = Callable[[Any, Any], Awaitable[Any]]
"""Takes a request, or an iterator of them, and gRPC's context."""


def measured(method: MethodDescriptor, handler: Handler) -> Handler:
    """The handler of an RPC with one answer, measured."""
    rpc = method.full_name
    clock = time.perf_counter
    well = CALL_SECONDS.labels(rpc, "OK")

    async def handle(request: Any, context: Any) -> Any:
        begun = clock()
        try:
            response = await handler(request, context)
        except BaseException as error:
            CALL_SECONDS.labels(rpc, _code_of(error, context)).observe(clock() - begun)
            raise
        well.observe(clock() - begun)
        return response

    return handle


def counted(method: MethodDescriptor, handler: Handler) -> Handler:
    """The handler of an RPC with a stream of answers, counted."""
    rpc = method.full_name
    is_open = STREAMS_OPEN.labels(rpc)
    well = STREAMS_ENDED.labels(rpc, "OK")

    async def handle(request: Any, context: Any) -> None:
        is_open.inc()
        try:
            await handler(request, context)
        except BaseException as error:
            STREAMS_ENDED.labels(rpc, _code_of(error, context)).inc()
            raise
        else:
            well.inc()
        finally:
            is_open.dec()

    return handle


def _code_of(error: BaseException, context: Any) -> str:
    """How a call has ended that did not end well; gRPC makes UNKNOWN of what was not meant to be.

    A caller who hangs up has it cancelled, and so does a service that cannot wait any more.
    """
    if isinstance(error, CancelledError):
        return "CANCELLED"
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
