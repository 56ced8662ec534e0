"""One trace from a client's command to the projections; none unless asked for."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from examples.services import ServiceFailed, start_command_service, start_query_service
from shared.log.log import AggregateKey, stamp
from shared.telemetry.configuring import FLUSH_S, exporters
from shared.telemetry.opentelemetry import MAX_AGE_S, OpenTelemetryTracer
from tests.log.builders import event
from tests.services.commanding import CALL_S, of, send
from tests.services.deployment import CommandClient
from tests.services.subscribing import history
from tests.telemetry.collector import collecting
from tidemark.v1.ship_pb2 import RegisterShip, ShipRegistered

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REGISTER = "tidemark.v1.ShipCommandService/Register"

PROGRAM = """
import asyncio, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from shared.client import Client
from shared.client.connection import Connection
from tidemark.v1.ship_pb2 import RegisterShip

async def main():
    async with Client(Connection(*sys.argv[1:])) as client:
        with trace.get_tracer("program").start_as_current_span("launch"):
            await client.execute(RegisterShip(ship_id="aurora", name="Aurora"))

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
asyncio.run(main())
"""


async def test_one_trace_leads_from_a_client_to_the_projection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collecting() as collector:
        for name, value in collector.variables.items():
            monkeypatch.setenv(name, value)
        command = await start_command_service(tmp_path, log=tmp_path / "command.log")
        query = await start_query_service(tmp_path, command.address, log=tmp_path / "query.log")
        try:
            environment = {**os.environ, "OTEL_SERVICE_NAME": "program"}
            program = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", PROGRAM, command.address, query.address), env=environment
            )
            assert await asyncio.wait_for(program.wait(), CALL_S) == 0
            found = await collector.until("launch", "commit", "subscribe", "project ships")
        finally:
            await query.stop()
            await command.stop()

    calls = {service: span for service, span in collector.spans if span.name == REGISTER}
    launch, served = found["launch"][1], calls["command_service"]
    assert {each.trace_id for _, each in found.values()} == {launch.trace_id}
    assert calls["program"].parent_span_id == launch.span_id
    assert served.parent_span_id == calls["program"].span_id
    for name, service in {
        "commit": "command_service",
        "subscribe": "query_service",
        "project ships": "query_service",
    }.items():
        assert (found[name][0], found[name][1].parent_span_id) == (service, served.span_id)
    assert "project users" not in found


async def test_without_tracing_nothing_of_a_trace_is_stored(tmp_path: Path) -> None:
    service = await start_command_service(tmp_path)
    client = CommandClient(service.address)
    call = client.ships.Register(
        RegisterShip(ship_id="aurora", name="Aurora"), metadata=(("traceparent", TRACEPARENT),)
    )
    await call
    [recorded] = await history(client.log)
    await client.channel.close()
    await service.stop()
    assert recorded.traceparent == ""


async def test_a_collector_that_is_away_delays_nobody_and_keeps_no_service_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    log = tmp_path / "log"
    service = await start_command_service(tmp_path, log=log)
    client = CommandClient(service.address)
    await send(client, of("aurora", RegisterShip(name="Aurora")))
    await client.channel.close()

    begun = time.monotonic()
    assert await service.stop() == 0
    assert time.monotonic() - begun < 2 * FLUSH_S
    assert "traces_not_sent" in log.read_text()
    assert "Traceback" not in log.read_text()


async def test_an_exporter_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")
    log = tmp_path / "log"
    with pytest.raises(ServiceFailed, match="code 1"):
        await start_command_service(tmp_path, log=log)
    assert log.read_text() == (
        "command_service: OTEL_TRACES_EXPORTER: no exporter 'pigeon' is installed\n"
    )


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"OTEL_SERVICE_NAME": "harbour"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, ["otlp_proto_grpc"]),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp_proto_grpc", "console"]),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            ["otlp_proto_http"],
        ),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"}, []),
    ],
)
def test_the_standard_variables_say_where_traces_go(
    environment: dict[str, str], expected: list[str]
) -> None:
    assert exporters(environment) == expected


def test_an_event_of_long_ago_has_no_part_in_a_trace_any_more() -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    recorded = event(AggregateKey("acme", "ship", "aurora"), 1, ShipRegistered(name="Aurora"))
    recorded.traceparent = TRACEPARENT
    now = time.time_ns() // 1000
    records = [stamp(recorded, 1, now - round(MAX_AGE_S + 1) * 1_000_000), stamp(recorded, 2, now)]

    OpenTelemetryTracer(provider).record_events("subscribe", records, 0.1)

    [span] = spans.get_finished_spans()
    assert span.attributes == {"tidemark.position": 2}
    assert span.end_time is not None
    assert span.start_time == span.end_time - 100_000_000
