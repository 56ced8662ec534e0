"""What a load process notes of its calls."""

import time
from array import array

from benchmarks.orders import LoadReport, Window


class Recorder:
    """Counts what was completed, and how long it took."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._cpu_s = time.process_time()
        self._operations = 0
        self._all_operations = 0
        self._latencies_s = array("d")
        self._receipts: list[tuple[int, float]] = []

    @property
    def is_over(self) -> bool:
        """Whether nothing counts any more."""
        return time.monotonic() >= self._window.end

    def completed(self, started: float, operations: int = 1) -> None:
        """A call is answered.

        Args:
            started: by the monotonic clock.
            operations: how many the call stood for.
        """
        now = time.monotonic()
        self._all_operations += operations
        if self._window.begin <= now < self._window.end:
            self._operations += operations
            self._latencies_s.append(now - started)

    def acknowledged(self, position: int) -> None:
        """A command is acknowledged with a position."""
        self._receipts.append((position, time.monotonic()))

    def passed(self, operations: int) -> None:
        """Operations are done, in a call that goes on: its latency is told by `completed`."""
        self._all_operations += operations
        if self._window.begin <= time.monotonic() < self._window.end:
            self._operations += operations

    def report(self, peak_rss_bytes: int) -> LoadReport:
        """All of it."""
        return LoadReport(
            operations=self._operations,
            all_operations=self._all_operations,
            latencies_us=[round(latency * 1e6) for latency in self._latencies_s],
            cpu_s=time.process_time() - self._cpu_s,
            peak_rss_bytes=peak_rss_bytes,
            receipts=self._receipts,
        )
