"""What the metrics show of a command service at the moment at which they are asked for."""

from command_service.executor import Executor
from shared.event_log_service import EventLogService
from shared.log.log import EventLog
from shared.telemetry.metrics import (
    COMMANDS_DECIDED,
    COMMANDS_IN_FLIGHT,
    LOG_HEAD_POSITION,
)


class Gauges:
    """Looks at a service's parts."""

    def __init__(self, log: EventLog, executor: Executor, event_log: EventLogService) -> None:
        self._log = log
        self._executor = executor
        self._event_log = event_log

    async def look(self) -> None:
        """Sets the gauges."""
        LOG_HEAD_POSITION.set(self._log.head.position)
        COMMANDS_IN_FLIGHT.set(self._executor.in_flight)
        COMMANDS_DECIDED.set(self._executor.decided)
        self._event_log.look()
