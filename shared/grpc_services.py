"""The services that come with gRPC, health and reflection, with requests parsed as ours are.

As they come, bytes that do not parse are answered with UNKNOWN and leave a traceback in the log.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_status import rpc_status

from shared.errors import InvalidArgument
from shared.rpc import ServicerContext, parser, status_of

HEALTH: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION: Any = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


def health_handler(servicer: Any) -> grpc.GenericRpcHandler:
    """Handlers of what the servicer implements of health: all but List."""
    methods = HEALTH.methods_by_name
    check = _parsing(methods["Check"], servicer.Check)
    watch = _parsing(methods["Watch"], servicer.Watch)
    serialize = health_pb2.HealthCheckResponse.SerializeToString
    handlers: dict[str, Any] = {
        "Check": grpc.unary_unary_rpc_method_handler(check, response_serializer=serialize),
        "Watch": grpc.unary_stream_rpc_method_handler(watch, response_serializer=serialize),
    }
    return grpc.method_handlers_generic_handler(HEALTH.full_name, handlers)


def reflection_handler(services: Iterable[str]) -> grpc.GenericRpcHandler:
    """Handlers of reflection, which tells of services by their full names."""
    servicer: Any = reflection.aio.ReflectionServicer(services)
    [method] = REFLECTION.methods
    parse = parser(method)

    async def handle(raw: AsyncIterator[bytes], context: ServicerContext) -> AsyncIterator[Message]:
        async with _refusing(context):
            requests = (parse(each) async for each in raw)
            async for response in servicer.ServerReflectionInfo(requests, context):
                yield response

    handler: Any = grpc.stream_stream_rpc_method_handler(
        handle,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(REFLECTION.full_name, {method.name: handler})


def _parsing(
    method: MethodDescriptor, function: Callable[[Message, ServicerContext], Awaitable[Any]]
) -> Any:
    parse = parser(method)

    async def handle(raw: bytes, context: ServicerContext) -> Any:
        async with _refusing(context):
            request = parse(raw)
        return await function(request, context)

    return handle


@asynccontextmanager
async def _refusing(context: ServicerContext) -> AsyncIterator[None]:
    """Ends the call if a request does not parse."""
    try:
        yield
    except InvalidArgument as error:
        await context.abort_with_status(rpc_status.to_status(status_of(error)))
