"""What the services expose, and that it is true."""

import socket
import time
from collections.abc import Callable
from math import isnan
from pathlib import Path
from uuid import uuid4

import pytest
from prometheus_client.samples import Sample

from examples.services import ServiceFailed, start_command_service, start_query_service
from shared.event_log_service import Origin
from shared.following import SILENCE_S
from shared.log.memory import MemoryLog
from shared.security.tenants import EVERY_TENANT
from shared.telemetry.metrics import OF_COMMANDS, OF_QUERIES
from tests.services.caller import Caller
from tests.services.commanding import of, rpc_error, send
from tests.services.deployment import Deployment
from tests.services.following import following, register
from tests.services.subscribing import subscribed
from tests.telemetry.dashboard import grouped_by, queries, selectors_of, selects
from tests.telemetry.scraping import METRICS, scraped, value_of
from tidemark.v1.query_pb2 import RebuildProjectionRequest
from tidemark.v1.ship_pb2 import DockShip, GetShipRequest, RegisterShip, UnloadCargo

REGISTER = RegisterShip(name="Aurora")
DOCK = DockShip(port="Oslo")
LAGS = ("tidemark_projection_lag_events", "tidemark_projection_lag_seconds")


async def of_commands(exposed: Deployment) -> list[Sample]:
    return await scraped(exposed.folder / "command.log")


async def of_queries(exposed: Deployment) -> list[Sample]:
    return await scraped(exposed.folder / "query.log")


def counted(samples: list[Sample], command: str, outcome: str) -> float:
    return value_of(samples, "tidemark_command_seconds_count", command=command, outcome=outcome)


async def test_commands_are_counted_by_type_and_outcome(exposed: Deployment) -> None:
    dock = of("aurora", DOCK, command_id=str(uuid4()))
    await send(exposed.commands, of("aurora", REGISTER))
    await send(exposed.commands, dock)
    await send(exposed.commands, dock)
    await send(exposed.commands, of("aurora", DOCK, validate_only=True))
    await rpc_error(send(exposed.commands, of("aurora", UnloadCargo(item="silk", quantity=1))))
    await rpc_error(send(exposed.commands, of("aurora", DOCK, expected_version=1)))
    await rpc_error(send(exposed.commands, of("", DOCK)))

    samples = await of_commands(exposed)
    dockings = ("accepted", "duplicate", "validated", "WRONG_VERSION", "INVALID_FIELD")
    assert [counted(samples, "tidemark.v1.DockShip", each) for each in dockings] == [1] * 5
    assert counted(samples, "tidemark.v1.RegisterShip", "accepted") == 1
    assert counted(samples, "tidemark.v1.UnloadCargo", "CARGO_NOT_ABOARD") == 1
    calls = {
        each.labels["code"]: each.value
        for each in samples
        if each.name == "tidemark_call_seconds_count" and each.labels["rpc"].endswith(".Dock")
    }
    assert calls == {"OK": 3, "ABORTED": 1, "INVALID_ARGUMENT": 1}
    assert value_of(samples, "tidemark_commands_in_flight") == 0


async def test_commits_and_the_cache_are_measured(exposed: Deployment) -> None:
    caller = Caller(exposed.commands, exposed.queries, "acme")
    await caller.do(of("aurora", REGISTER), *[of("aurora", DOCK)] * 99)

    samples = await of_commands(exposed)
    assert value_of(samples, "tidemark_commit_commands_sum") == 100
    commits = value_of(samples, "tidemark_commit_commands_count")
    assert commits == value_of(samples, "tidemark_commit_seconds_count")
    assert 1 <= commits < 100
    asked = [
        value_of(samples, "tidemark_aggregates_asked_total", cache=each) for each in ("hit", "miss")
    ]
    assert sum(asked) == 100
    assert asked[1] >= 1
    assert value_of(samples, "tidemark_log_head_position") == 100


async def test_subscribers_are_counted_and_their_lag_is_that_of_the_last(
    exposed: Deployment,
) -> None:
    assert isnan(value_of(await of_queries(exposed), "tidemark_subscriber_lag_events"))
    receipt = await send(exposed.commands, of("aurora", REGISTER))
    async with (
        subscribed(exposed.queries.log, tenant_id=EVERY_TENANT) as whole,
        subscribed(exposed.queries.log) as own,
    ):
        await whole.to_position(receipt.position)
        await own.to_position(receipt.position)

        samples = await of_queries(exposed)
        assert value_of(samples, "tidemark_subscribers", reads="everything") == 1
        assert value_of(samples, "tidemark_subscribers", reads="selection") == 1
        assert value_of(samples, "tidemark_subscriber_lag_events") == 0


def now() -> int:
    return time.time_ns() // 1000


async def lags_with(origin: Callable[[], Origin], folder: Path) -> list[float]:
    """Whether the upstream is in touch, and the lags of projections that lack nothing."""
    log = MemoryLog()
    await register(log, "one")
    async with following(folder, log, origin, *METRICS) as client:
        await client.ships.GetShip(GetShipRequest(ship_id="one", min_position=1), timeout=10)
        samples = await scraped(folder / "query.log")
    return [
        value_of(samples, "tidemark_upstream_in_touch"),
        value_of(samples, "tidemark_copy_lag_events"),
        *[value_of(samples, name, projection="ships") for name in LAGS],
    ]


async def test_while_the_origin_is_heard_of_there_is_no_lag(tmp_path: Path) -> None:
    assert await lags_with(lambda: Origin(1, now()), tmp_path) == [1, 0, 0, 0]


async def test_when_the_origin_is_silent_the_lag_is_not_known(tmp_path: Path) -> None:
    silent_since = now() - round((SILENCE_S + 1) * 1_000_000)
    in_touch, *lags = await lags_with(lambda: Origin(1, silent_since), tmp_path)
    assert in_touch == 0
    assert all(map(isnan, lags))


async def test_without_an_upstream_no_lag_is_known_and_every_attempt_is_counted(
    tmp_path: Path,
) -> None:
    log = tmp_path / "query.log"
    service = await start_query_service(tmp_path, "127.0.0.1:1", "127.0.0.1:0", *METRICS, log=log)
    try:
        samples = await scraped(log)
    finally:
        await service.stop()

    assert value_of(samples, "tidemark_upstream_in_touch") == 0
    assert value_of(samples, "tidemark_upstream_lost_total", why="UNAVAILABLE") >= 0
    for name in LAGS:
        assert isnan(value_of(samples, name, projection="ships"))
    assert isnan(value_of(samples, "tidemark_copy_lag_events"))


async def test_every_query_of_the_dashboard_finds_data_in_running_services(
    exposed: Deployment,
) -> None:
    caller = Caller(exposed.commands, exposed.queries, "default")
    await send(exposed.commands, of("aurora", REGISTER))
    await rpc_error(send(exposed.commands, of("aurora", DOCK, expected_version=7)))
    await caller.do(of("aurora", DOCK))
    await caller.ask(GetShipRequest(ship_id="aurora", min_position=2))
    await caller.all(RebuildProjectionRequest(name="ships"))
    async with subscribed(exposed.queries.log) as subscription:
        await subscription.to_head()
        samples = [*await of_commands(exposed), *await of_queries(exposed)]

    asked = list(queries())
    assert len(asked) > 30
    for query in asked:
        for selector in selectors_of(query):
            found = [each for each in samples if selects(selector, each)]
            assert any(not isnan(each.value) for each in found), query
            for label in grouped_by(query):
                assert all(label in each.labels for each in found), (label, query)


def test_the_dashboard_shows_every_metric_there_is() -> None:
    read = {selector.name for query in queries() for selector in selectors_of(query)}
    for metric in {*OF_COMMANDS, *OF_QUERIES}:
        [family] = metric.collect()
        assert any(str(name).startswith(family.name) for name in read), family.name


async def test_metrics_are_not_shown_to_other_machines_unless_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    everywhere = ("127.0.0.1:0", "--metrics", "0.0.0.0:0")
    with pytest.raises(ServiceFailed, match="code 1"):
        await start_command_service(tmp_path, *everywhere, log=log)
    assert "metrics are plain HTTP" in log.read_text()

    service = await start_command_service(tmp_path, *everywhere, "--insecure", log=log)
    assert await service.stop() == 0


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:99999", "127.0.0.1:TAKEN"])
async def test_a_service_that_cannot_expose_its_metrics_says_so_and_does_not_start(
    tmp_path: Path, listen: str
) -> None:
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        metrics = listen.replace("TAKEN", str(taken.getsockname()[1]))
        with pytest.raises(ServiceFailed, match="code 1"):
            await start_command_service(tmp_path, "127.0.0.1:0", "--metrics", metrics, log=log)
    assert metrics in log.read_text()
    assert "Traceback" not in log.read_text()
