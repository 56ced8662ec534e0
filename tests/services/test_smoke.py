"""The shortest way through both services."""

import grpc
import pytest

from tests.services.deployment import Deployment, reason_of
from tidemark.v1.ship_pb2 import DepartShip, GetShipRequest, RegisterShip

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_command_is_visible_in_a_query_at_its_position(
    shared: Deployment, ship_id: str
) -> None:
    receipt = await shared.commands.ships.Register(RegisterShip(ship_id=ship_id, name="Ever"))

    response = await shared.queries.ships.GetShip(
        GetShipRequest(ship_id=ship_id, min_position=receipt.position)
    )

    assert response.ship.name == "Ever"
    assert response.ship.version == receipt.version == 1


async def test_a_refusal_says_its_reason(shared: Deployment, ship_id: str) -> None:
    await shared.commands.ships.Register(RegisterShip(ship_id=ship_id, name="Ever"))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await shared.commands.ships.Depart(DepartShip(ship_id=ship_id))

    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(refused.value) == "SHIP_NOT_DOCKED"
