"""Subscribers that are there and do not read, and some that are not there any more."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
from grpc import StatusCode

from examples.services import Service
from shared.aggregates.aggregate import pack
from shared.security.tenants import EVERY_TENANT
from tests.services.commanding import failure, of, send_all
from tests.services.deployment import CommandClient, Deployment, tenant
from tests.services.subscribing import reached, subscribed
from tests.torture.proxy import Mode, Proxy
from tidemark.v1.command_pb2 import ExecuteRequest
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.ship_pb2 import DockShip, LoadCargo, RegisterShip

MIB = 1 << 20
NOT_READING = 20
LOADED = of("laden", LoadCargo(item="𝄞" * 256, quantity=1))
"""An event of somewhat more than 1 KiB."""

NOTICED_S = 30.0
"""A server asks a silent connection after 10 s, and gives it up 5 s later."""

RETRY_S = 0.2


async def test_what_nobody_reads_takes_no_memory(tmp_path: Path) -> None:
    own = Deployment(tmp_path)
    try:
        await own.start_command()
        await own.start_query()
        await send_all(own.commands, "laden", RegisterShip(name="Ever"), DockShip(port="Kiel"))
        async with AsyncExitStack() as streams:
            for log in (own.commands.log, own.queries.log):
                for _ in range(NOT_READING):
                    stream = subscribed(log, SubscribeRequest(), EVERY_TENANT)
                    await (await streams.enter_async_context(stream)).next()
            # Enough for every stream to be full, and for what is kept of the newest events.
            await reached(own.queries.log, await _loaded(own.commands, 12_000))
            before = [_resident_bytes(each) for each in (own.command, own.query)]

            await reached(own.queries.log, await _loaded(own.commands, 12_000))

            after = [_resident_bytes(each) for each in (own.command, own.query)]
        written = 12_000 * LOADED.ByteSize()
        for service_before, service_after in zip(before, after, strict=True):
            assert service_after - service_before < 3 * written
    finally:
        await own.close()


async def test_a_subscriber_that_has_vanished_gives_its_place_back(tmp_path: Path) -> None:
    own = Deployment(tmp_path)
    try:
        await own.start_command("--max-streams", "1")
        async with Proxy.to(own.command.address) as proxy:
            vanishing = CommandClient(proxy.address)
            async with subscribed(vanishing.log) as stream:
                await stream.next()
                refused = await failure(
                    own.commands.log.Subscribe(SubscribeRequest(), timeout=5).read()
                )
                proxy.set(Mode.SILENT)

                async with asyncio.timeout(NOTICED_S):
                    await _served_at_last(own.commands)

            await vanishing.channel.close()
        assert refused.reason == "TOO_MANY_STREAMS"
    finally:
        await own.close()


async def _served_at_last(client: CommandClient) -> None:
    while True:
        async with subscribed(client.log) as stream:
            try:
                await stream.next()
            except grpc.aio.AioRpcError as error:
                assert error.code() is StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017  # in a loop
            else:
                return
        await asyncio.sleep(RETRY_S)


async def _loaded(client: CommandClient, times: int) -> int:
    """A ship is loaded so often; returns the last position."""
    requests = [ExecuteRequest(commands=[pack(LOADED)] * 500)] * (times // 500)
    call = client.bulk.Execute(requests, metadata=tenant("default"), timeout=60)
    last = 0
    async for response in call:
        last = response.results[-1].receipt.position
    return last


def _resident_bytes(service: Service) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) << 10
