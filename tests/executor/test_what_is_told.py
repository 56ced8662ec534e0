"""What the operator is told of commits that fail, and of commands."""

from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from command_service.aggregates.ship import SHIP_RULES
from command_service.handlers import Commands
from shared.errors import Exhausted, NotFound, Unavailable
from shared.outage import QUIET_S, CallOutages
from shared.server import Server
from tests.executor.asking import ask, running
from tests.executor.commands import TYPES, register
from tests.executor.logs import GatedLog
from tests.services.commanding import of, rpc_error, send
from tests.services.deployment import CommandClient
from tidemark.v1.ship_pb2 import RegisterShip

Logged = list[MutableMapping[str, Any]]


def told(logged: Logged) -> Logged:
    """What is told without being asked for, of the executor's."""
    return [each for each in logged if each["log_level"] != "debug"]


def disk_full() -> Exhausted:
    return Exhausted("DISK_FULL", "The disk is full")


async def fail(log: GatedLog, executor: Any, error: Exception) -> None:
    log.appending.fail_next(error)
    await ask(executor, register()).error()


async def test_a_full_disk_is_told_of_when_it_begins_and_when_it_is_over(
    exclusive_log: GatedLog, logged: Logged
) -> None:
    async with running(exclusive_log) as executor:
        for _ in range(20):
            await fail(exclusive_log, executor, disk_full())
        [begun] = told(logged)
        assert (begun["event"], begun["reason"]) == ("commit_failed", "DISK_FULL")
        assert isinstance(begun["exc_info"], Exhausted)

        await ask(executor, register()).receipt()
        await ask(executor, register("borealis")).receipt()
        [_, over] = told(logged)
        assert (over["event"], over["failures"]) == ("commit_failed_no_more", 20)
        assert "exc_info" not in over


async def test_another_reason_and_another_outage_are_told_of_again(
    exclusive_log: GatedLog, logged: Logged
) -> None:
    async with running(exclusive_log) as executor:
        await fail(exclusive_log, executor, disk_full())
        await fail(exclusive_log, executor, Unavailable("LOG_UNAVAILABLE", "It does not answer"))
        await ask(executor, register()).receipt()
        await fail_for_another_ship(exclusive_log, executor)

    assert [each.get("reason") for each in told(logged)] == [
        "DISK_FULL", "LOG_UNAVAILABLE", None, "DISK_FULL",
    ]  # fmt: skip


async def fail_for_another_ship(log: GatedLog, executor: Any) -> None:
    log.appending.fail_next(disk_full())
    await ask(executor, register("borealis")).error()


async def test_calls_that_fail_for_one_reason_are_told_of_once_and_each_to_who_asks_for_it(
    exclusive_log: GatedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.outage.QUIET_S", 0.0)
    async with running(exclusive_log) as executor, Server("127.0.0.1:0") as server:
        server.add(SHIP_RULES.service, Commands(TYPES, executor).method_of)
        client = CommandClient(await server.start())
        with capture_logs(processors=[merge_contextvars]) as logged:
            for name in ("first", "second", "third"):
                exclusive_log.appending.fail_next(disk_full())
                await rpc_error(send(client, registration(name)))
            await send(client, registration("fourth"))
        await client.channel.close()

    calls = [each for each in logged if each["event"].startswith("call_failed")]
    begun, *again, over = calls
    assert (begun["log_level"], begun["reason"]) == ("warning", "DISK_FULL")
    assert [each["log_level"] for each in again] == ["debug"] * 2
    assert [each["correlation_id"] for each in (begun, *again)] == ["first", "second", "third"]
    assert (over["event"], over["failures"]) == ("call_failed_no_more", 3)
    assert begun["rpc"] == over["rpc"] == "tidemark.v1.ShipCommandService.Register"


def registration(correlation_id: str) -> RegisterShip:
    command: RegisterShip = of("aurora", RegisterShip(name="Aurora"), correlation_id=correlation_id)
    return command


def test_what_fails_now_and_then_is_over_when_it_has_been_quiet(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    now = 100.0
    monkeypatch.setattr("shared.outage.time", SimpleNamespace(monotonic=lambda: now))
    outages = CallOutages("Dock")
    for _ in range(5):
        now += QUIET_S - 1
        outages.failed(Unavailable("LOG_BEHIND", "It is behind"))
        outages.succeeded()
    assert [each["event"] for each in told(logged)] == ["call_failed"]

    now += QUIET_S
    outages.failed(NotFound("SHIP_NOT_FOUND", "An answer"))

    [_, over] = told(logged)
    assert (over["event"], over["failures"]) == ("call_failed_no_more", 5)
    assert over["lasted_s"] == 4 * (QUIET_S - 1)
