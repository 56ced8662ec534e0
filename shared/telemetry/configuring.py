"""Sets tracing up for a service, by OpenTelemetry's own variables and nothing else."""

import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points

import structlog

from shared.security.misconfigured import Misconfigured
from shared.telemetry import tracing

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

FLUSH_S = 3.0
"""How long the last traces may take to leave."""

logger = structlog.get_logger(__name__)


def configure_tracing(service_name: str) -> Callable[[], object]:
    """Has the service traced, if the variables name somewhere for traces to go to.

    Args:
        service_name: unless the variables say another.

    Returns:
        To be called at the end: sends what is left.

    Raises:
        Misconfigured: OTEL_TRACES_EXPORTER names one that is not installed.
    """
    names = exporters(os.environ)
    if not names:
        return _nothing
    try:
        from opentelemetry import trace  # noqa: PLC0415  # it is an extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        # The variables may be meant for others on this machine.
        logger.warning("tracing_not_installed", extra="otel")
        return _nothing
    if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", service_name)
    provider = TracerProvider(shutdown_on_exit=False)
    for name in names:
        found = entry_points(group="opentelemetry_traces_exporter", name=name)
        if not found:
            raise Misconfigured(f"OTEL_TRACES_EXPORTER: no exporter {name!r} is installed")
        [exporter, *_] = found
        provider.add_span_processor(BatchSpanProcessor(exporter.load()()))
    trace.set_tracer_provider(provider)
    tracing.tracer = tracing.of_program()
    logger.info("tracing", exporters=names)
    return partial(_send_the_rest, provider.shutdown)


def exporters(environment: Mapping[str, str]) -> list[str]:
    """The exporters that the standard variables name, as they are registered.

    None where tracing is switched off, or neither an exporter nor an endpoint is named. That alone
    differs from the specification, by which traces go to this machine whenever the SDK is there.
    """
    default = "otlp" if any(environment.get(name) for name in ENDPOINTS) else ""
    named = environment.get("OTEL_TRACES_EXPORTER") or default
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), "grpc")
    otlp = "otlp_proto_http" if protocol.startswith("http/") else "otlp_proto_grpc"
    names = [name.strip() for name in named.split(",")]
    return [otlp if name == "otlp" else name for name in names if name not in {"", "none"}]


def _send_the_rest(shutdown: Callable[[], None]) -> None:
    """Lets a collector that is away, for which the SDK would wait 30 s, delay the end only so long.

    What is on its way then ends with the process.
    """
    sending = threading.Thread(target=shutdown, name="traces", daemon=True)
    sending.start()
    sending.join(FLUSH_S)
    if sending.is_alive():
        logger.warning("traces_not_sent", after_s=FLUSH_S)


def _nothing() -> None:
    """There is nothing to send."""
