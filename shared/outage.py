"""Something that fails again and again, as the operator is told of it: not each time."""

import time

import structlog

from shared.errors import TidemarkError

logger = structlog.get_logger(__name__)


class Outage:
    """Tells when it begins, when its reason changes, and when it is over.

    Args:
        event: what is told.
        context: goes with every line.
    """

    def __init__(self, event: str, **context: str) -> None:
        self._event = event
        self._event_when_over = f"{event}_no_more"
        self._context = context
        self._reason = ""
        self._failures = 0
        self._since = 0.0

    def failed(self, error: TidemarkError) -> None:
        """It has failed; the first time, and for another reason, with the traceback."""
        if not self._failures:
            self._since = time.monotonic()
        self._failures += 1
        if error.reason != self._reason:
            self._reason = error.reason
            logger.error(self._event, reason=error.reason, exc_info=error, **self._context)

    def succeeded(self) -> None:
        """It has not failed; the first time after it did, it is over."""
        if self._failures:
            lasted_s = round(time.monotonic() - self._since, 1)
            failures, self._failures, self._reason = self._failures, 0, ""
            logger.warning(
                self._event_when_over, failures=failures, lasted_s=lasted_s, **self._context
            )
