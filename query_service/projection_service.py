"""ProjectionService: how the projections are, and building them anew."""

import time
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from query_service.building import CLOSE_EVENTS
from query_service.projector import Projector
from query_service.replica import Replica
from shared.call import Call
from shared.checks import check, text
from shared.errors import NotFound
from shared.log.log import EventLog
from tidemark.v1.query_pb2 import (
    ListProjectionsRequest,
    ListProjectionsResponse,
    ProjectionState,
    ProjectionStatus,
    RebuildProjectionRequest,
    RebuildProjectionResponse,
)


class Projections:
    """Tells of the projectors of this server."""

    def __init__(self, log: EventLog, replica: Replica, projectors: Sequence[Projector]) -> None:
        self._log = log
        self._replica = replica
        self._projectors = {each.projection.name: each for each in projectors}

    async def list_projections(
        self, _request: ListProjectionsRequest, _call: Call
    ) -> ListProjectionsResponse:
        """See the contract."""
        return ListProjectionsResponse(
            projections=[await self._status(each) for each in self._projectors.values()]
        )

    async def rebuild_projection(self, request: RebuildProjectionRequest, call: Call) -> None:
        """See the contract."""
        check(request, text("name"))
        projector = self._projectors.get(request.name)
        if projector is None:
            raise NotFound("PROJECTION_NOT_FOUND", "There is no such projection")
        rebuild = projector.rebuild()
        while True:
            is_done = rebuild.is_done
            if rebuild.failure is not None:
                raise rebuild.failure
            response = RebuildProjectionResponse(
                position=rebuild.position,
                head_position=self._replica.origin.head_position,
                done=is_done,
            )
            sent_position = rebuild.position
            await call.send(response)
            if is_done:
                return
            while rebuild.position == sent_position and not rebuild.has_ended:
                await rebuild.changes.next()

    async def _status(self, projector: Projector) -> ProjectionStatus:
        status = ProjectionStatus(
            name=projector.projection.name,
            schema_version=projector.projection.schema_version,
            state=self.state_of(projector),
            position=projector.position,
            head_position=self._replica.origin.head_position,
            lag=await self.lag_of(projector.position),
        )
        if projector.fault is not None:
            status.fault_position = projector.fault.position
            status.fault = projector.fault.reason
        return status

    def state_of(self, projector: Projector) -> ProjectionState.ValueType:
        """See the contract."""
        head_position = self._replica.origin.head_position
        if projector.rebuilding is not None:
            return ProjectionState.PROJECTION_STATE_REBUILDING
        if projector.fault is not None:
            return ProjectionState.PROJECTION_STATE_FAULTED
        if not projector.is_verified or head_position - projector.position > CLOSE_EVENTS:
            return ProjectionState.PROJECTION_STATE_CATCHING_UP
        return ProjectionState.PROJECTION_STATE_LIVE

    async def lag_of(self, position: int) -> Duration | None:
        """The age of the oldest event that is missing at a position.

        None where it cannot be known: the upstream is away, or has what is not copied yet.
        """
        missing_since = await self._log.event_time(position)
        if missing_since is not None:
            lag = Duration()
            lag.FromMicroseconds(max(0, time.time_ns() // 1000 - missing_since))
            return lag
        if self._replica.is_in_touch and position >= self._replica.origin.head_position:
            return Duration()
        return None
