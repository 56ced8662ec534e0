"""Headers that no client of gRPC sends."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from shared.client import Client
from tests.services.clients import connection_to
from tests.services.commanding import CALL_S, failure, of, rpc_error
from tests.services.deployment import Deployment, deployment, tenant
from tests.services.forging import PLACEHOLDER, forging
from tests.services.health import SERVING, until_health
from tidemark.v1.ship_pb2 import DockShip, GetShipRequest, GetShipResponse, RegisterShip

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

REGISTER = RegisterShip(name="Ever")


@pytest.mark.parametrize(
    "forged",
    [b"a\0b", b"a\nb", b"\x1b[31m", b"\x7f", b"\x85", b"\xff\xfe", "é".encode(), b"\xed\xa0\x80"],
)
async def test_a_tenant_that_is_no_printable_ascii_is_invalid(
    shared: Deployment, forged: bytes
) -> None:
    async with (
        forging(shared.command.address, forged) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        register: Any = channel.unary_unary("/tidemark.v1.ShipCommandService/Register")
        request = REGISTER.SerializeToString()
        failed = await failure(register(request, metadata=tenant(PLACEHOLDER), timeout=CALL_S))

    assert (failed.reason, failed.fields) == ("INVALID_FIELD", ["x-tenant-id"])
    assert "Traceback" not in (shared.folder / "command.log").read_text()


async def test_after_a_path_that_is_no_utf_8_both_services_go_on(tmp_path: Path) -> None:
    async with deployment(tmp_path) as both:
        async with Client(connection_to(both)) as client:
            await client.execute(of("ever", REGISTER))

            await asyncio.gather(*(dive(each.address) for each in (both.command, both.query)))

            # What reaches a server after that, and before it is started anew, is cut off.
            await client.execute(of("ever", DockShip(port="Kiel")))
            answer = await client.ask(GetShipRequest(ship_id="ever"), GetShipResponse)
            assert answer.ship.current_port == "Kiel"
        for channel in (both.commands.channel, both.queries.channel):
            await until_health(channel, "", SERVING)


async def dive(address: str) -> None:
    """Calls a method whose name is no text."""
    async with forging(address, b"\xff") as link, grpc.aio.insecure_channel(link) as channel:
        call: Any = channel.unary_unary(f"/tidemark.v1.{PLACEHOLDER}/Dive")
        await rpc_error(call(b"", timeout=CALL_S))
