"""Traces: one from a client's command to the projections that it changes. Off unless asked for.

A command's events carry the W3C trace context of the call that caused them (`traceparent` in the
contract), so that whoever reads them, whenever and wherever, can continue its trace:

    client ─ command ┬ commit
                     ├ subscribe, in each query service
                     └ project ships, in each query service

`tracer` does nothing until `shared.telemetry.configuring` puts another one in its place.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf.descriptor import MethodDescriptor

Handler = Callable[[Any, Any], Awaitable[Any]]
"""Takes a request, or an iterator of them, and gRPC's context."""

Headers = tuple[tuple[str, str], ...]


class Tracer:
    """Traces nothing."""

    is_on = False

    def serving(self, _method: MethodDescriptor, handler: Handler) -> Handler:
        """The handler of an RPC, with a span for each call.

        A stream has one only if its caller traces it: it can last for days.
        """
        return handler

    @contextmanager
    def calling(self, _method: MethodDescriptor) -> Iterator[Headers]:
        """A span for a call that is made, and the headers that go with it."""
        yield ()

    def current(self) -> str:
        """The trace context of what is being done, as in the header traceparent; empty: none."""
        return ""

    def record(self, name: str, traceparent: str, seconds: float, **attributes: str | int) -> None:
        """A span that ends now, in the trace that an event carries."""

    def record_events(
        self, name: str, records: Iterable[bytes], seconds: float, aggregate_type: str = ""
    ) -> None:
        """Such a span for each of some events that carry one.

        What happened long ago has no part in it: of an old log that is read anew nobody wants
        traces.

        Args:
            name: of the spans.
            records: the serialized events.
            seconds: how long it took to deal with all of them.
            aggregate_type: of those that count; empty: all do.
        """


tracer = Tracer()
"""What a service uses."""


def of_program() -> Tracer:
    """What a client uses: the tracing of the program that it is in, if that has any."""
    try:
        from shared.telemetry.opentelemetry import (  # noqa: PLC0415  # it is an extra
            OpenTelemetryTracer,
        )
    except ImportError:
        return Tracer()
    return OpenTelemetryTracer()
