"""What health says of a query service: whether its projections, and all of it, can be asked."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from query_service.projection import Projection
from query_service.projector import Projector
from query_service.replica import Replica
from shared.server import READY, Server

logger = structlog.get_logger(__name__)


class Readiness:
    """Tells a server's health.

    A projection can be asked once it has come as far as the log was at the start, unless it is
    faulted. The service can, once each projection has come as far or is faulted: one that fails
    takes nothing along. That the upstream is away, or a projection behind again, changes nothing:
    answers say what they are true of.
    """

    def __init__(self, server: Server, replica: Replica, projectors: Sequence[Projector]) -> None:
        self._server = server
        self._replica = replica
        self._projectors = projectors

    @property
    def names(self) -> list[str]:
        """What health is told of."""
        return [READY, *(name for each in self._projectors for name in names_of(each.projection))]

    async def run(self) -> None:
        """Tells until cancelled."""
        head = await self._replica.first_head()
        async with asyncio.TaskGroup() as tasks:
            for projector in self._projectors:
                tasks.create_task(self._tell_of(projector, head))
            for projector in self._projectors:
                while not projector.fault and not _can_be_asked(projector, head):
                    await projector.changed()
            if not self._replica.fault:
                await self._server.set_health([READY], True)
                logger.info("ready", position=min(each.position for each in self._projectors))

    async def _tell_of(self, projector: Projector, head: int) -> None:
        is_serving = False
        while True:
            if is_serving is _can_be_asked(projector, head):
                await projector.changed()
            else:
                is_serving = not is_serving
                await self._server.set_health(names_of(projector.projection), is_serving)


def names_of(projection: Projection[Any]) -> Sequence[str]:
    """What health calls a projection, and the gRPC service that answers from it."""
    return f"projection/{projection.name}", projection.service.full_name


def _can_be_asked(projector: Projector, head: int) -> bool:
    return projector.fault is None and projector.is_verified and projector.position >= head
