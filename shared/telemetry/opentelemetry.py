"""Traces by OpenTelemetry's API: where the program has set up no SDK, nothing comes of them."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.log.log import MICROSECONDS, time_of
from shared.telemetry.tracing import Handler, Headers, Tracer
from tidemark.v1.event_pb2 import RecordedEvent

HEADERS = ("traceparent", "tracestate")
MAX_AGE_S = 60.0
"""Of an event whose trace is still being followed."""

NANOSECONDS = 1_000_000_000


class OpenTelemetryTracer(Tracer):
    """See `Tracer`.

    Args:
        provider: of the SDK; None: the program's.
    """

    is_on = True

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("tidemark", tracer_provider=provider)
        self._w3c = TraceContextTextMapPropagator()

    def serving(self, method: MethodDescriptor, handler: Handler) -> Handler:
        """See `Tracer.serving`."""
        is_stream = method.server_streaming

        async def handle(request: Any, context: Any) -> Any:
            metadata = context.invocation_metadata() or ()
            headers = {name: value for name, value in metadata if name in HEADERS}
            if is_stream and not headers:
                return await handler(request, context)
            parent = self._w3c.extract(headers)
            with self._spanning(method, SpanKind.SERVER, parent) as span:
                try:
                    return await handler(request, context)
                finally:
                    code = context.code()
                    if isinstance(code, grpc.StatusCode):
                        span.set_attribute("rpc.grpc.status_code", code.value[0])

        return handle

    @contextmanager
    def calling(self, method: MethodDescriptor) -> Iterator[Headers]:
        """See `Tracer.calling`."""
        with self._spanning(method, SpanKind.CLIENT):
            headers: dict[str, str] = {}
            self._w3c.inject(headers)
            yield tuple(headers.items())

    def current(self) -> str:
        """See `Tracer.current`."""
        context = trace.get_current_span().get_span_context()
        if not context.trace_flags.sampled:
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def record(self, name: str, traceparent: str, seconds: float, **attributes: str | int) -> None:
        """See `Tracer.record`."""
        ended = time.time_ns()
        span = self._tracer.start_span(
            name,
            self._w3c.extract({"traceparent": traceparent}),
            SpanKind.CONSUMER,
            {f"tidemark.{key}": value for key, value in attributes.items()},
            start_time=ended - round(seconds * NANOSECONDS),
        )
        span.end(ended)

    def record_events(
        self, name: str, records: Iterable[bytes], seconds: float, aggregate_type: str = ""
    ) -> None:
        """See `Tracer.record_events`."""
        oldest = (time.time() - MAX_AGE_S) * MICROSECONDS
        for event in map(RecordedEvent.FromString, records):
            if (
                event.traceparent
                and time_of(event) >= oldest
                and aggregate_type in {"", event.aggregate_type}
            ):
                self.record(name, event.traceparent, seconds, position=event.position)

    @contextmanager
    def _spanning(
        self, method: MethodDescriptor, kind: SpanKind, parent: Context | None = None
    ) -> Iterator[Span]:
        service = method.containing_service.full_name
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method.name}
        with self._tracer.start_as_current_span(
            f"{service}/{method.name}", parent, kind, attributes
        ) as span:
            yield span
