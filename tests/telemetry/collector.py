"""Whoever collects traces, over gRPC as OTLP says it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.services.commanding import CALL_S

SERVICE = trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"]


class Collector:
    """Keeps every span, and which service it is of."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[tuple[str, Span]] = []
        self._has_more = asyncio.Event()

    @property
    def variables(self) -> dict[str, str]:
        """What a program's environment says to have its traces sent here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.address}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    async def until(self, *names: str) -> dict[str, tuple[str, Span]]:
        """Returns once there is a span of each name: its service, and it."""
        async with asyncio.timeout(CALL_S):
            while not {*names} <= {span.name for _, span in self.spans}:
                self._has_more.clear()
                await self._has_more.wait()
        return {span.name: (service, span) for service, span in self.spans}

    async def export(self, request: Any, _context: Any) -> Any:
        for resource_spans in request.resource_spans:
            attributes = resource_spans.resource.attributes
            [service] = [
                each.value.string_value for each in attributes if each.key == "service.name"
            ]
            for scope_spans in resource_spans.scope_spans:
                self.spans += [(service, span) for span in scope_spans.spans]
        self._has_more.set()
        return trace_service_pb2.ExportTraceServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector for the length of a block."""
    collector = Collector()
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        collector.export,
        request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
        response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(SERVICE.full_name, {"Export": handler})
    server.add_generic_rpc_handlers((handlers,))
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)
