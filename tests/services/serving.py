"""What the services serve, and how they say that they are."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from command_service.aggregates import RULES
from examples.services import Service
from query_service.projections import PROJECTIONS
from tests.services.commanding import CALL_S

SERVICES = {
    "command_service": sorted(
        [
            "tidemark.v1.BulkCommandService",
            "tidemark.v1.EventLogService",
            "tidemark.v1.KeyService",
            *(rules.service.full_name for rules in RULES),
        ]
    ),
    "query_service": sorted(
        [
            "tidemark.v1.EventLogService",
            "tidemark.v1.KeyService",
            "tidemark.v1.ProjectionService",
            "tidemark.v1.ReplayService",
            *(projection.service.full_name for projection in PROJECTIONS),
        ]
    ),
}


@contextlib.asynccontextmanager
async def channel_to(service: Service) -> AsyncIterator[grpc.aio.Channel]:
    """A channel for the length of a block."""
    async with grpc.aio.insecure_channel(
        service.address, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        yield channel


def health_watch(channel: Any, service: str) -> Any:
    """How a service is, by its full name: a response now, and one at every change."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=CALL_S)
