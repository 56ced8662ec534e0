"""What health says is true, and what the health check for containers makes of it."""

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from examples.dev_credentials import make
from shared import healthcheck
from shared.event_log_service import Origin
from shared.log.memory import MemoryLog
from shared.options import ServerOptions
from shared.server import Server
from tests.services.caller import Caller
from tests.services.commanding import send
from tests.services.deployment import Deployment
from tests.services.faulty_query_service import POISON
from tests.services.following import following, register
from tests.services.health import NOT_SERVING, SERVING, health_of, until_health
from tests.services.operating import Ended, operate
from tidemark.v1.ship_pb2 import ListShipsRequest, RegisterShip

SHIPS, USERS = "projection/ships", "projection/users"
SHIP_QUERIES = "tidemark.v1.ShipQueryService"


# A query service


async def test_it_can_be_asked_once_its_projections_have_come_as_far_as_the_log_was(
    tmp_path: Path,
) -> None:
    log = MemoryLog()
    await register(log, "one")
    origin = Origin(2, time.time_ns() // 1000)
    async with following(tmp_path, log, lambda: origin) as client:
        await client.ships.ListShips(ListShipsRequest(min_position=1), timeout=10)
        before = [await health_of(client.channel, name) for name in ("", SHIPS, SHIP_QUERIES)]
        life = await health_of(client.channel, "live")

        await register(log, "two")

        for name in ("", SHIPS, USERS, SHIP_QUERIES):
            await until_health(client.channel, name, SERVING)
    assert before == [NOT_SERVING] * 3
    assert life == SERVING


async def test_it_can_be_asked_what_it_has_though_its_upstream_is_away(own: Deployment) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(RegisterShip(ship_id="one", name="Aurora"))
    await caller.ask(ListShipsRequest())
    await own.query.stop()
    await own.command.stop()

    await own.start_query()

    for name in ("", SHIPS, USERS):
        await until_health(own.queries.channel, name, SERVING)


async def test_a_projection_that_is_faulted_when_it_starts_takes_nothing_along(
    tmp_path: Path,
) -> None:
    own = Deployment(tmp_path)
    try:
        await own.start_command()
        await send(own.commands, RegisterShip(ship_id="bad", name=POISON))

        await own.start_query(module="tests.services.faulty_query_service")

        for name in ("", USERS):
            await until_health(own.queries.channel, name, SERVING)
        assert await health_of(own.queries.channel, SHIPS) == NOT_SERVING
    finally:
        await own.close()


# The health check


async def check(*arguments: str) -> Ended:
    """Runs the command that containers run."""
    return await operate("shared.healthcheck", *arguments)


async def test_a_health_check_says_what_a_service_says_of_itself() -> None:
    async with Server("127.0.0.1:0") as server:
        address = await server.start(unready=["projection/one"])

        for name in ("", "live"):
            assert await healthcheck.health_of(address, name) == "SERVING"
        assert await healthcheck.health_of(address, "projection/one") == "NOT_SERVING"
        assert (await healthcheck.health_of(address, "another")).startswith("NOT_FOUND")


async def test_its_exit_code_is_0_for_what_serves_alone() -> None:
    async with Server("127.0.0.1:0") as server:
        address = await server.start(unready=[""])

        ready, live = await check(address), await check(address, "live")

    assert (ready.code, ready.stdout) == (1, f"{address}: NOT_SERVING\n")
    assert (live.code, live.stdout) == (0, f"{address} live: SERVING\n")


async def test_a_health_check_of_a_server_that_never_answers_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(healthcheck, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        found = await healthcheck.health_of(f"127.0.0.1:{port}")
    assert found.startswith("DEADLINE_EXCEEDED: ")


@asynccontextmanager
async def asking_everybody(folder: Path) -> AsyncIterator[str]:
    """A server that nobody reaches without a certificate, and that knows no caller."""
    make(folder)
    options = ServerOptions(
        tls_cert=folder / "server.pem",
        tls_key=folder / "server.key",
        tls_client_ca=folder / "ca.pem",
        identities=str(folder / "identities.toml"),
    )
    async with Server("127.0.0.1:0", options) as server:
        yield await server.start()


async def test_over_tls_it_shows_a_certificate_where_that_is_asked_for(tmp_path: Path) -> None:
    ca = ("--ca", str(tmp_path / "ca.pem"))
    pair = ("--cert", str(tmp_path / "client.pem"), "--key", str(tmp_path / "client.key"))
    async with asking_everybody(tmp_path) as address:
        shown = await check(address, *ca, *pair)
        not_shown = await check(address, *ca)
        to_another = await check(address, *ca, *pair, "--server-name", "another.example")
        to_the_same = await check(address, *ca, *pair, "--server-name", "localhost")

    assert (shown.code, shown.stdout) == (0, f"{address}: SERVING\n")
    assert (to_the_same.code, to_the_same.stdout) == (0, f"{address}: SERVING\n")
    for failed in (not_shown, to_another):
        assert failed.code == 1
        assert failed.stdout.startswith(f"{address}: UNAVAILABLE: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--ca", "/nowhere"), "No such file"),
        (("--ca", __file__), "has no certificate as PEM"),
        (("--cert", "one.pem"), "--cert goes with --key"),
        (("--cert", "one.pem", "--key", "one.key"), "and with --ca"),
    ],
)
async def test_what_it_cannot_ask_with_it_says(arguments: tuple[str, ...], sentence: str) -> None:
    ended = await check("127.0.0.1:1", *arguments)

    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("healthcheck: ")
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
