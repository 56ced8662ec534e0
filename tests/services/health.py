"""How a service says it is."""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from shared.client.stubs import Stub
from tests.services.caller import DEADLINE_S

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


HEALTH: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]


async def until_health(channel: grpc.aio.Channel, service: str, status: int) -> None:
    """Returns once a service, "" for the whole server, says that it is so; fails if it is late."""
    stub: Any = Stub(channel, HEALTH)
    request = health_pb2.HealthCheckRequest(service=service)
    watch = stub.Watch(request, timeout=DEADLINE_S, wait_for_ready=True)
    async for response in watch:
        if response.status == status:
            watch.cancel()
            return
    raise AssertionError("The health watch ended")


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    """How a service, "" for the whole server, says it is."""
    stub: Any = Stub(channel, HEALTH)
    request = health_pb2.HealthCheckRequest(service=service)
    response = await stub.Check(request, timeout=DEADLINE_S, wait_for_ready=True)
    return int(response.status)
