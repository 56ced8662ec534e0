"""What the metrics show of a query service at the moment at which they are asked for."""

from collections.abc import Sequence
from math import nan

from query_service.projection_service import Projections
from query_service.projector import Projector
from query_service.replica import Replica
from shared.errors import TidemarkError
from shared.event_log_service import EventLogService
from shared.log.log import EventLog
from shared.telemetry.metrics import (
    COPY_FAULTED,
    COPY_LAG_EVENTS,
    LOG_HEAD_POSITION,
    PROJECTION_LAG_EVENTS,
    PROJECTION_LAG_SECONDS,
    PROJECTION_POSITION,
    PROJECTION_STATE,
    UPSTREAM_IN_TOUCH,
)
from tidemark.v1.query_pb2 import ProjectionState


class Gauges:
    """Looks at a service's parts."""

    def __init__(
        self,
        log: EventLog,
        replica: Replica,
        projectors: Sequence[Projector],
        projections: Projections,
        event_log: EventLogService,
    ) -> None:
        self._log = log
        self._replica = replica
        self._projectors = projectors
        self._projections = projections
        self._event_log = event_log

    async def look(self) -> None:
        """Sets the gauges."""
        head = self._log.head.position
        LOG_HEAD_POSITION.set(head)
        UPSTREAM_IN_TOUCH.set(self._replica.is_in_touch)
        COPY_FAULTED.set(bool(self._replica.fault))
        COPY_LAG_EVENTS.set(self._behind_origin(head))
        for projector in self._projectors:
            await self._look_at(projector)
        self._event_log.look()

    async def _look_at(self, projector: Projector) -> None:
        name = projector.projection.name
        position = projector.position
        PROJECTION_POSITION.labels(name).set(position)
        PROJECTION_LAG_EVENTS.labels(name).set(self._behind_origin(position))
        PROJECTION_LAG_SECONDS.labels(name).set(await self._seconds_behind(position))
        state = ProjectionState.Name(self._projections.state_of(projector))
        PROJECTION_STATE.labels(name).state(state.removeprefix("PROJECTION_STATE_").lower())

    def _behind_origin(self, position: int) -> float:
        if not self._replica.is_in_touch:
            return nan
        return max(0, self._replica.origin.head_position - position)

    async def _seconds_behind(self, position: int) -> float:
        try:
            lag = await self._projections.lag_of(position)
        except TidemarkError:
            # The copy cannot be read, of which the log tells elsewhere.
            return nan
        return nan if lag is None else lag.ToMicroseconds() / 1_000_000
