"""What fails again and again, as the operator is told of it: not each time."""

import logging
import time
from typing import Any

import structlog

from shared.errors import TidemarkError, Unavailable

QUIET_S = 10.0
"""Without a failure, after which what fails now and then has ended."""

logger = structlog.get_logger(__name__)


class Outage:
    """Tells when it begins, when its reason changes, and when it is over; each failure as debug.

    Args:
        event: what is told.
        quiet_s: for so long it must not have failed, where one success does not mean its end.
        context: goes with every line.
    """

    def __init__(self, event: str, *, quiet_s: float = 0.0, **context: str) -> None:
        self._event = event
        self._event_when_over = f"{event}_no_more"
        self._quiet_s = quiet_s
        self._context = context
        self._reason = ""
        self._level = logging.DEBUG
        self._failures = 0
        self._first = self._last = 0.0

    def failed(self, reason: str, *, level: int = logging.ERROR, **details: Any) -> None:
        """It has failed.

        Args:
            reason: why, in a word.
            level: of the line, if there is one.
            details: go with the line.
        """
        self._last = time.monotonic()
        if not self._failures:
            self._first = self._last
        self._failures += 1
        if reason == self._reason:
            logger.debug(self._event, reason=reason, **self._context, **details)
            return
        self._reason, self._level = reason, level
        logger.log(level, self._event, reason=reason, **self._context, **details)

    def succeeded(self) -> None:
        """It has not failed."""
        if not self._failures or time.monotonic() - self._last < self._quiet_s:
            return
        lasted_s = round(self._last - self._first, 1)
        failures, self._failures, self._reason = self._failures, 0, ""
        level = min(self._level, logging.WARNING)
        logger.log(
            level, self._event_when_over, failures=failures, lasted_s=lasted_s, **self._context
        )


class CallOutages:
    """What keeps an RPC from being answered: an outage for each reason.

    Args:
        rpc: its full name.
    """

    def __init__(self, rpc: str) -> None:
        self._rpc = rpc
        self._outages: dict[str, Outage] = {}

    def failed(self, error: TidemarkError) -> None:
        """A call has ended with an error, which may be its answer."""
        if error.is_verdict:
            self.succeeded()
            return
        outage = self._outages.get(error.reason)
        if outage is None:
            outage = self._outages[error.reason] = Outage(
                "call_failed", quiet_s=QUIET_S, rpc=self._rpc
            )
        # That something is not available yet, or no more, is nobody's mistake.
        level = logging.INFO if isinstance(error, Unavailable) else logging.WARNING
        cause = {"cause": repr(error.__cause__)} if error.__cause__ else {}
        outage.failed(error.reason, level=level, error=str(error), **cause)

    def succeeded(self) -> None:
        """A call was answered."""
        for outage in self._outages.values():
            outage.succeeded()
