"""The service config of the contract, as gRPC's own clients understand it, here those of Python."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2

from shared.aggregates.ship import SHIP
from shared.client.stubs import Stub
from shared.event_log_service import EventLogService
from shared.log.memory import MemoryLog
from shared.rpc import methods_of
from shared.server import Server
from tests.log.builders import commit, ship
from tests.services.answers import Answers, answer, answering
from tests.services.deployment import EVENT_LOG, USER_COMMANDS
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.user_pb2 import ChangeUserBalance

CONFIG = (
    Path(__file__).parent.parent.parent / "protos" / "tidemark" / "v1" / "service_config.json"
).read_text(encoding="utf-8")
SOON_S = 15.0


def channel_to(target: str) -> grpc.aio.Channel:
    """What any gRPC client is, with the config and nothing else."""
    options = [("grpc.service_config", CONFIG), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(target, options=options)


def test_only_what_is_unavailable_is_retried() -> None:
    [method] = json.loads(CONFIG)["methodConfig"]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


@pytest.mark.parametrize(
    ("statuses", "attempts", "code"),
    [
        ([code_pb2.UNAVAILABLE, code_pb2.UNAVAILABLE], 3, None),
        ([code_pb2.UNAVAILABLE] * 5, 5, grpc.StatusCode.UNAVAILABLE),
        ([code_pb2.ABORTED], 1, grpc.StatusCode.ABORTED),
        ([code_pb2.INTERNAL], 1, grpc.StatusCode.INTERNAL),
        ([code_pb2.RESOURCE_EXHAUSTED], 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_it_retries_what_is_unavailable_and_nothing_else(
    statuses: list[code_pb2.Code], attempts: int, code: grpc.StatusCode | None
) -> None:
    answers = Answers(*map(answer, statuses))
    async with answering(answers) as address, channel_to(address) as channel:
        call = Stub(channel, USER_COMMANDS).ChangeBalance(
            ChangeUserBalance(user_id="u"), timeout=SOON_S
        )
        if code is None:
            assert (await call).version == 7
        else:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert raised.value.code() is code
    assert len(answers.command_ids) == attempts


@asynccontextmanager
async def serving(ship_id: str) -> AsyncIterator[tuple[Server, str]]:
    """A server whose log has one event, of this ship, and its port."""
    log = MemoryLog()
    await log.append([commit(ship(ship_id, "default"))])
    async with Server("127.0.0.1:0") as server:
        server.add(EVENT_LOG, methods_of(EventLogService(log, [SHIP])))
        yield server, (await server.start()).rpartition(":")[2]


async def test_calls_go_to_those_servers_that_say_they_are_well() -> None:
    async def answered_by(count: int) -> set[str]:
        request = SubscribeRequest(stop_at_head=True)
        return {
            event.aggregate_id
            for _ in range(count)
            async for response in Stub(channel, EVENT_LOG).Subscribe(request, timeout=SOON_S)
            for event in response.events
        }

    async def until(expected: set[str]) -> None:
        async with asyncio.timeout(SOON_S):
            while await answered_by(4) != expected:
                pass

    async with (
        serving("one") as (first, first_port),
        serving("two") as (_, second_port),
        channel_to(f"ipv4:127.0.0.1:{first_port},127.0.0.1:{second_port}") as channel,
    ):
        await until({"one", "two"})
        await first.set_health([""], is_serving=False)
        await until({"two"})
        assert await answered_by(20) == {"two"}
        await first.set_health([""], is_serving=True)
        await until({"one", "two"})
