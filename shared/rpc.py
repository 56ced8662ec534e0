"""From descriptors to handlers, and from errors to statuses: the same for every RPC.

Handlers take and give bytes, so that a request that does not parse is answered like any other bad
one (gRPC's own answer would be UNKNOWN), and what is stored as bytes is sent as bytes.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from shared.changes import Changes
from shared.drain import Drain
from shared.errors import (
    Exhausted,
    Internal,
    InvalidArgument,
    InvalidFields,
    Refused,
    TidemarkError,
    Unavailable,
    invalid_field,
)
from shared.security.authorization import Authorization, check_demands
from shared.security.identity import Identity
from shared.security.tenants import (
    DEFAULT_TENANT,
    EVERY_TENANT,
    TENANT_HEADER,
    Headers,
    named_tenant,
)
from shared.security.tokens import expired

ERROR_DOMAIN = "tidemark"

MAX_CALLS = 50_000
"""Of all kinds, being answered at once."""

ServicerContext = grpc.aio.ServicerContext[bytes, bytes]
Request = TypeVar("Request", bound=Message)

logger = structlog.get_logger(__name__)


class Call:
    """One call: who makes it, how long it may take, and where its responses go."""

    def __init__(self, context: ServicerContext, drain: Drain) -> None:
        self.context = context
        self.drain = drain
        self.identity: Identity | None = None
        """Who makes it; None: nobody was asked."""
        self.has_expired = False
        """Whether it was ended because the caller's credentials did."""
        self._headers: asyncio.Future[None] | None = None

    @property
    def headers(self) -> Headers:
        """What came with it."""
        return self.context.invocation_metadata() or ()

    @property
    def actor(self) -> str:
        """Who makes it, as events say; empty: nobody was asked."""
        return "" if self.identity is None else self.identity.subject

    @property
    def tenant_id(self) -> str:
        """The tenant whose data the call is about.

        Raises:
            InvalidFields: the header is no tenant's id, asks for every tenant, or is missing where
                there are several to choose from.
            PermissionDenied: TENANT_FORBIDDEN.
        """
        tenant_id = self._tenant()
        if tenant_id == EVERY_TENANT:
            raise invalid_field(TENANT_HEADER, "every tenant is for Subscribe alone")
        return tenant_id

    @property
    def tenant_id_or_every(self) -> str | None:
        """The same, or None for every tenant.

        Raises:
            InvalidFields: the header is no tenant's id, or is missing where there are several to
                choose from.
            PermissionDenied: TENANT_FORBIDDEN.
        """
        tenant_id = self._tenant()
        return None if tenant_id == EVERY_TENANT else tenant_id

    @property
    def time_remaining(self) -> float | None:
        """Seconds to the caller's deadline; None: it has none."""
        return self.context.time_remaining()

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has given up."""
        return self.context.cancelled()

    @contextmanager
    def ending(self, task: asyncio.Task[Any]) -> Iterator[None]:
        """Has the task cancelled when the caller's credentials end."""
        if self.identity is None or self.identity.expires_at == inf:
            yield
            return

        def end() -> None:
            self.has_expired = True
            task.cancel()

        left = max(self.identity.expires_at - time.time(), 0.0)
        timer = asyncio.get_running_loop().call_later(left, end)
        try:
            yield
        finally:
            timer.cancel()

    async def send(self, response: Message) -> None:
        """Sends one response of a stream; returns when the peer can take more."""
        if self._headers is None:
            self._headers = asyncio.ensure_future(self.context.send_initial_metadata(()))
            # If the caller hangs up now, nobody waits for them any more.
            self._headers.add_done_callback(_look_at)
            await asyncio.shield(self._headers)
        await self.context.write(response.SerializeToString())

    async def end(self, status: status_pb2.Status) -> None:
        """Ends the call with an error."""
        # Headers that went with the first response would be sent again if that was interrupted,
        # which gRPC refuses, and the caller would never see the status.
        if self._headers is not None:
            await self._headers
        await self.context.abort_with_status(rpc_status.to_status(status))

    def _tenant(self) -> str:
        named = named_tenant(self.headers)
        if named is not None:
            return named
        return DEFAULT_TENANT if self.identity is None else self.identity.only_tenant()


UnaryMethod = Callable[[Any, Call], Awaitable[Message]]
StreamMethod = Callable[[Any, Call], Awaitable[None]]
"""Sends its responses through the call. With a stream of requests, it takes an iterator of them."""


class Calls:
    """What the calls of one server have in common: their limit, their number, their end.

    Args:
        max_streams: server-streaming calls open at once; beyond, RESOURCE_EXHAUSTED.
        authorization: lets callers in; None: everybody comes in.
    """

    def __init__(self, max_streams: int, authorization: Authorization | None = None) -> None:
        self.drain = Drain()
        self._authorization = authorization
        self._max_streams = max_streams
        self._streams = 0
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
        if not method.server_streaming:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, function))
        if not method.client_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(method, function))
        return grpc.stream_stream_rpc_method_handler(self._bidirectional(method, function))

    def _unary(self, method: MethodDescriptor, function: UnaryMethod) -> Any:
        parse = parser(method)

        async def handle(raw: bytes, context: ServicerContext) -> bytes:
            try:
                self._begin()
                try:
                    call = Call(context, self.drain)
                    await self._admit(method, call)
                    response = await function(parse(raw), call)
                    return response.SerializeToString()
                finally:
                    self._end()
            except TidemarkError as error:
                status = status_of(error, method)
            except Exception:
                logger.exception("call_failed_unexpectedly", rpc=method.full_name)
                status = status_of(Internal())
            await context.abort_with_status(rpc_status.to_status(status))
            raise AssertionError("abort returned")

        return handle

    def _stream(self, method: MethodDescriptor, function: StreamMethod) -> Any:
        parse = parser(method)

        async def handle(raw: bytes, context: ServicerContext) -> None:
            call = Call(context, self.drain)
            await self._run_stream(method, call, lambda: function(parse(raw), call))

        return handle

    def _bidirectional(self, method: MethodDescriptor, function: StreamMethod) -> Any:
        parse = parser(method)

        async def handle(raw: AsyncIterator[bytes], context: ServicerContext) -> None:
            requests = (parse(each) async for each in raw)
            call = Call(context, self.drain)
            # It ends by itself when the service does: what it has taken on is to be answered.
            await self._run_stream(method, call, lambda: function(requests, call), cancel=False)

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
                    self._counted_stream(),
                    self.drain.calling(task.cancel if cancel else _nothing),
                    call.ending(task),
                ):
                    await function()
        except TidemarkError as error:
            status = status_of(error, method)
        except asyncio.CancelledError:
            if call.is_cancelled or not (self.drain.is_on or call.has_expired):
                raise
            task.uncancel()
            status = status_of(expired() if call.has_expired else _draining(), method)
        except Exception:
            logger.exception("call_failed_unexpectedly", rpc=method.full_name)
            status = status_of(Internal())
        else:
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

    @contextmanager
    def _counted_stream(self) -> Iterator[None]:
        if self._streams >= self._max_streams:
            raise Exhausted("TOO_MANY_STREAMS", "Too many open streams", limit=self._max_streams)
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1


def methods_of(implementation: object) -> Callable[[MethodDescriptor], Any]:
    """Answers each RPC with the object's method of the same name, in snake case.

    Raises:
        AttributeError: there is none.
    """

    def method_of(method: MethodDescriptor) -> Any:
        return getattr(implementation, re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower())

    return method_of


def status_of(error: TidemarkError, method: MethodDescriptor | None = None) -> status_pb2.Status:
    """The error as a caller sees it; what an operator has to know of it is logged here."""
    if not error.is_verdict and not isinstance(error, Internal):
        # That something is not available yet, or no more, is nobody's mistake.
        log = logger.info if isinstance(error, Unavailable) else logger.warning
        cause = {"cause": repr(error.__cause__)} if error.__cause__ else {}
        log("call_failed", rpc=method.full_name if method else None, error=str(error), **cause)
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


def _look_at(future: asyncio.Future[None]) -> None:
    """Keeps asyncio from calling a failure forgotten."""
    if not future.cancelled():
        future.exception()


def _nothing() -> None:
    """For who needs no telling."""
