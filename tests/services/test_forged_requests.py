"""Headers that no client of gRPC sends."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.services.commanding import CALL_S, of, rpc_error, send
from tests.services.deployment import deployment
from tests.services.forging import PLACEHOLDER, forging
from tests.services.health import SERVING, health_of
from tidemark.v1.ship_pb2 import DockShip, GetShipRequest, RegisterShip

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

REGISTER = RegisterShip(name="Ever")


async def test_after_a_path_that_is_no_utf_8_both_services_go_on(tmp_path: Path) -> None:
    async with deployment(tmp_path) as both:
        await send(both.commands, of("ever", REGISTER))

        await asyncio.gather(*(dive(each.address) for each in (both.command, both.query)))

        dock = of("ever", DockShip(port="Kiel"))
        receipt = await send(both.commands, dock, wait_for_ready=True)
        request = GetShipRequest(ship_id="ever", min_position=receipt.position)
        answer = await both.queries.ships.GetShip(request, timeout=CALL_S, wait_for_ready=True)
        assert answer.ship.current_port == "Kiel"
        for channel in (both.commands.channel, both.queries.channel):
            assert await health_of(channel, "") == SERVING


async def dive(address: str) -> None:
    """Calls a method whose name is no text."""
    async with forging(address, b"\xff") as link, grpc.aio.insecure_channel(link) as channel:
        call: Any = channel.unary_unary(f"/tidemark.v1.{PLACEHOLDER}/Dive")
        await rpc_error(call(b"", timeout=CALL_S))
