"""What the operator is told of commits that fail, and of commands."""

from collections.abc import MutableMapping
from typing import Any

from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from command_service.aggregates.ship import SHIP_RULES
from command_service.handlers import Commands
from shared.errors import Exhausted, Unavailable
from shared.server import Server
from tests.executor.asking import ask, running
from tests.executor.commands import TYPES, register
from tests.executor.logs import GatedLog
from tests.services.commanding import of, rpc_error, send
from tests.services.deployment import CommandClient
from tidemark.v1.ship_pb2 import RegisterShip

Logged = list[MutableMapping[str, Any]]


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
        [begun] = logged
        assert (begun["event"], begun["reason"]) == ("commit_failed", "DISK_FULL")
        assert isinstance(begun["exc_info"], Exhausted)

        await ask(executor, register()).receipt()
        await ask(executor, register("borealis")).receipt()
        [_, over] = logged
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

    assert [each.get("reason") for each in logged] == [
        "DISK_FULL", "LOG_UNAVAILABLE", None, "DISK_FULL",
    ]  # fmt: skip


async def fail_for_another_ship(log: GatedLog, executor: Any) -> None:
    log.appending.fail_next(disk_full())
    await ask(executor, register("borealis")).error()


async def test_what_is_told_of_a_call_that_failed_names_its_correlation_id(
    exclusive_log: GatedLog,
) -> None:
    async with running(exclusive_log) as executor, Server("127.0.0.1:0") as server:
        server.add(SHIP_RULES.service, Commands(TYPES, executor).method_of)
        client = CommandClient(await server.start())
        with capture_logs(processors=[merge_contextvars]) as told:
            for name in ("first", "second"):
                exclusive_log.appending.fail_next(disk_full())
                command = of("aurora", RegisterShip(name="Aurora"), correlation_id=name)
                await rpc_error(send(client, command))
        await client.channel.close()

    failed = [each for each in told if each["event"] == "call_failed"]
    assert [each["correlation_id"] for each in failed] == ["first", "second"]
