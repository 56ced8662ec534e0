"""The services that come with gRPC, with requests parsed as ours are.

As they come, bytes that do not parse are answered with UNKNOWN and leave a traceback in the log.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_status import rpc_status

from shared.call import Call, ServicerContext
from shared.errors import NotFound, TidemarkError, invalid_field
from shared.options import ServerOptions
from shared.rpc import parser, status_of
from shared.security.limits import Limit

HEALTH: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
CHANNELZ: Any = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"]
REFLECTION: Any = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]

MAX_WATCHES = 1_000
"""Of health, open at once; anybody may have them, so they take no other stream's place."""

MAX_HEALTH_NAME_BYTES = 256

Diagnostic = tuple[ServiceDescriptor, Callable[[MethodDescriptor], Any]]


def health_handler(servicer: Any) -> grpc.GenericRpcHandler:
    """Handlers of what the servicer implements of health: all but List."""
    methods = HEALTH.methods_by_name
    watches = Limit("TOO_MANY_STREAMS", "open health watches", MAX_WATCHES, MAX_WATCHES)
    check = _health(methods["Check"], servicer.Check, nullcontext)
    watch = _health(methods["Watch"], servicer.Watch, lambda: watches.one(None))
    serialize = health_pb2.HealthCheckResponse.SerializeToString
    handlers: dict[str, Any] = {
        "Check": grpc.unary_unary_rpc_method_handler(check, response_serializer=serialize),
        "Watch": grpc.unary_stream_rpc_method_handler(watch, response_serializer=serialize),
    }
    return grpc.method_handlers_generic_handler(HEALTH.full_name, handlers)


def diagnostics(options: ServerOptions, services: Iterable[str]) -> Iterator[Diagnostic]:
    """What the options want to be served, beside health.

    Args:
        options: of the server.
        services: the full names of those that it serves otherwise.
    """
    known = [*services, HEALTH.full_name]
    if options.channelz:
        known.append(CHANNELZ.full_name)
        yield CHANNELZ, methods_of_servicer(channelz.aio.ChannelzServicer())
    if not options.no_reflection:
        known.append(REFLECTION.full_name)
        yield REFLECTION, methods_of_servicer(reflection.aio.ReflectionServicer(known))


def methods_of_servicer(servicer: object) -> Callable[[MethodDescriptor], Any]:
    """Answers each RPC with the servicer's method of that name."""

    def method_of(method: MethodDescriptor) -> Any:
        function = getattr(servicer, method.name)

        async def answer(request: Message, call: Call) -> Message:
            response: Message | None = await function(request, call.context)
            if response is None:
                raise NotFound("NOT_FOUND", "There is no such thing")
            return response

        async def stream(requests: AsyncIterator[Message], call: Call) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101  # a handler runs in a task
            with call.drain.calling(task.cancel):
                async for response in function(requests, call.context):
                    await call.send(response)

        return stream if method.server_streaming else answer

    return method_of


def _health(
    method: MethodDescriptor,
    function: Callable[[Any, ServicerContext], Awaitable[Any]],
    place: Callable[[], AbstractContextManager[None]],
) -> Any:
    """A handler of health's, for which every call takes a place."""
    parse = parser(method)

    def read(raw: bytes) -> Any:
        request: Any = parse(raw)
        if len(request.service.encode()) > MAX_HEALTH_NAME_BYTES:
            raise invalid_field("service", f"must have at most {MAX_HEALTH_NAME_BYTES} bytes")
        return request

    async def handle(raw: bytes, context: ServicerContext) -> Any:
        try:
            request = read(raw)
            del raw
            with place():
                return await function(request, context)
        except TidemarkError as error:
            await context.abort_with_status(rpc_status.to_status(status_of(error)))

    return handle
