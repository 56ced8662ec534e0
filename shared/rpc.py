"""From descriptors to handlers, and from errors to statuses: the same for every RPC.

Handlers take and give bytes, so that a request that does not parse is answered like any other bad
one (gRPC's own answer would be UNKNOWN), and what is stored as bytes is sent as bytes.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from shared.call import Call, ServicerContext
from shared.changes import Changes
from shared.drain import Drain
from shared.errors import (
    DeadlineExceeded,
    Exhausted,
    Internal,
    InvalidArgument,
    InvalidFields,
    Refused,
    TidemarkError,
    Unavailable,
)
from shared.outage import CallOutages
from shared.security.authorization import Authorization, check_demands
from shared.security.limits import Limit, LimitOptions
from shared.telemetry import tracing
from shared.telemetry.calls import counted, measured

ERROR_DOMAIN = "tidemark"

MAX_CALLS = 50_000
"""Of all kinds, being answered at once."""

Request = TypeVar("Request", bound=Message)

logger = structlog.get_logger(__name__)


UnaryMethod = Callable[[Any, Call], Awaitable[Message]]
StreamMethod = Callable[[Any, Call], Awaitable[None]]
"""Sends its responses through the call. With a stream of requests, it takes an iterator of them."""


class Calls:
    """What the calls of one server have in common: their limit, their number, their end.

    Args:
        limits: beyond which a call is refused.
        authorization: lets callers in; None: everybody comes in.
    """

    def __init__(self, limits: LimitOptions, authorization: Authorization | None = None) -> None:
        self.drain = Drain()
        self._authorization = authorization
        self._deadline_s = limits.default_deadline
        self._calls = Limit("TOO_MANY_CALLS", "calls", MAX_CALLS, limits.max_calls_per_caller)
        self._streams = Limit(
            "TOO_MANY_STREAMS", "open streams", limits.max_streams, limits.max_streams_per_caller
        )
        self._active = 0
        self._refusals = Changes()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def wait_until_idle(self) -> None:
        """Returns when no call is being answered."""
        await self._is_idle.wait()

    async def wait_until_quiet(self, quiet_s: float) -> None:
        """Returns when, while draining, no call has come for some seconds."""
        while True:
            try:
                async with asyncio.timeout(quiet_s):
                    await self._refusals.next()
            except TimeoutError:
                return

    def handler(
        self, service: ServiceDescriptor, method_of: Callable[[MethodDescriptor], Any]
    ) -> grpc.GenericRpcHandler:
        """Handlers for every RPC of a service.

        Args:
            service: the service.
            method_of: gives the function that answers an RPC.

        Raises:
            LookupError: what an RPC demands of its callers is not said.
        """
        check_demands(service)
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {method.name: self._method(method, method_of(method)) for method in service.methods},
        )

    def _method(self, method: MethodDescriptor, function: Any) -> Any:
        traced = partial(tracing.tracer.serving, method)
        if not method.server_streaming:
            handler = measured(method, self._unary(method, function))
            return grpc.unary_unary_rpc_method_handler(traced(handler))
        if not method.client_streaming:
            handler = counted(method, self._stream(method, function))
            return grpc.unary_stream_rpc_method_handler(traced(handler))
        handler = counted(method, self._bidirectional(method, function))
        return grpc.stream_stream_rpc_method_handler(traced(handler))

    def _unary(self, method: MethodDescriptor, function: UnaryMethod) -> Any:
        parse = parser(method)
        outages = CallOutages(method.full_name)

        async def handle(raw: bytes, context: ServicerContext) -> bytes:
            call = Call(context, self.drain)
            try:
                self._begin()
                try:
                    await self._admit(method, call)
                    with self._calls.one(call.identity):
                        response = await self._in_time(function, parse(raw), call)
                        outages.succeeded()
                        return response.SerializeToString()
                finally:
                    self._end()
            except TidemarkError as error:
                outages.failed(error)
                status = status_of(error)
            except Exception:
                logger.exception("call_failed_unexpectedly", rpc=method.full_name)
                status = status_of(Internal())
            await context.abort_with_status(rpc_status.to_status(status))
            raise AssertionError("abort returned")

        return handle

    async def _in_time(self, function: UnaryMethod, request: Message, call: Call) -> Message:
        """Answers a call, whose caller may have set no bound to it.

        Raises:
            DeadlineExceeded: then there is one.
        """
        if call.time_remaining is not None:
            return await function(request, call)
        timeout = asyncio.timeout(self._deadline_s)
        try:
            async with timeout:
                return await function(request, call)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(
                "DEFAULT_DEADLINE",
                f"It took longer than {self._deadline_s} s, which is the deadline of a call"
                " without one",
                limit=str(self._deadline_s),
            ) from error

    def _stream(self, method: MethodDescriptor, function: StreamMethod) -> Any:
        parse = parser(method)
        outages = CallOutages(method.full_name)

        async def handle(raw: bytes, context: ServicerContext) -> None:
            call = Call(context, self.drain)
            await self._run_stream(method, call, outages, lambda: function(parse(raw), call))

        return handle

    def _bidirectional(self, method: MethodDescriptor, function: StreamMethod) -> Any:
        parse = parser(method)
        outages = CallOutages(method.full_name)

        async def handle(raw: AsyncIterator[bytes], context: ServicerContext) -> None:
            requests = (parse(each) async for each in raw)
            call = Call(context, self.drain)
            # It ends by itself when the service does: what it has taken on is to be answered.
            await self._run_stream(
                method, call, outages, lambda: function(requests, call), cancel=False
            )

        return handle

    async def _admit(self, method: MethodDescriptor, call: Call) -> None:
        """Notes who makes a call, before anybody looks at what it asks for.

        Raises:
            TidemarkError: they may not.
        """
        if self._authorization is not None:
            call.identity = await self._authorization.admit(
                method, call.headers, call.context.auth_context
            )

    async def _run_stream(
        self,
        method: MethodDescriptor,
        call: Call,
        outages: CallOutages,
        function: Callable[[], Awaitable[None]],
        *,
        cancel: bool = True,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a handler runs in a task
        try:
            with self._counted():
                await self._admit(method, call)
                with (
                    self._streams.one(call.identity),
                    self.drain.calling(task.cancel if cancel else _nothing),
                    call.ending(task),
                ):
                    await function()
        except TidemarkError as error:
            outages.failed(error)
            status = status_of(error)
        except asyncio.CancelledError:
            if call.is_cancelled or not (self.drain.is_on or call.has_expired):
                raise
            task.uncancel()
            identity = call.identity if call.has_expired else None
            status = status_of(identity.expired if identity else _draining())
        except Exception:
            logger.exception("call_failed_unexpectedly", rpc=method.full_name)
            status = status_of(Internal())
        else:
            outages.succeeded()
            return
        await call.end(status)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._begin()
        try:
            yield
        finally:
            self._end()

    def _begin(self) -> None:
        if self.drain.is_on:
            self._refusals.notify()
            raise _draining()
        if self._active >= MAX_CALLS:
            raise Exhausted("TOO_MANY_CALLS", "Too many calls at once", limit=MAX_CALLS)
        self._active += 1
        self._is_idle.clear()

    def _end(self) -> None:
        self._active -= 1
        if self._active == 0:
            self._is_idle.set()


def methods_of(implementation: object) -> Callable[[MethodDescriptor], Any]:
    """Answers each RPC with the object's method of the same name, in snake case.

    Raises:
        AttributeError: there is none.
    """

    def method_of(method: MethodDescriptor) -> Any:
        return getattr(implementation, re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower())

    return method_of


def status_of(error: TidemarkError) -> status_pb2.Status:
    """The error as a caller sees it."""
    status = status_pb2.Status(code=error.code, message=error.message)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata
        )
    ]
    if isinstance(error, InvalidFields):
        violations = [violation._asdict() for violation in error.violations]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, Refused):
        violation = {"type": error.reason, "description": error.message, "subject": _subject(error)}
        details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def _subject(error: TidemarkError) -> str:
    metadata: Mapping[str, str] = error.metadata
    return f"{metadata.get('aggregate_type', '')}/{metadata.get('aggregate_id', '')}"


def _draining() -> Unavailable:
    return Unavailable("DRAINING", "The service is stopping")


def parser(method: MethodDescriptor) -> Callable[[bytes], Message]:
    """What makes a request of an RPC of its bytes, or raises InvalidArgument, MALFORMED_REQUEST."""
    request_class = message_factory.GetMessageClass(method.input_type)

    def parse(raw: bytes) -> Message:
        try:
            return request_class.FromString(raw)
        except DecodeError as error:
            name = method.input_type.full_name
            raise InvalidArgument("MALFORMED_REQUEST", f"Not a valid {name}") from error

    return parse


def _nothing() -> None:
    """For who needs no telling."""
