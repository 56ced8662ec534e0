"""What a process of live subscribers is told, and what it answers: lines of JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

SAMPLED_SUBSCRIBERS = 100
"""So many of them are enough for percentiles."""


@dataclass(frozen=True)
class LiveOrder:
    """What to subscribe to.

    Args:
        address: HOST:PORT of the service.
        subscribers: how many streams.
    """

    address: str
    subscribers: int

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, line: str) -> "LiveOrder":
        """The reverse of `to_json`."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class LiveReport:
    """What came.

    Args:
        deliveries: of each subscriber, each response that had events: the first and the last
            position in it, and when it came, in seconds of the machine's monotonic clock.
        cpu_s: CPU seconds since it was ready.
        peak_rss_bytes: of the process.
    """

    deliveries: list[list[tuple[int, int, float]]]
    cpu_s: float
    peak_rss_bytes: int

    def delays_ms(self, receipts: Mapping[int, float]) -> list[float]:
        """Milliseconds from the receipts, by position, to the deliveries, in ascending order.

        Of very many subscribers, those of some.
        """
        step = max(1, len(self.deliveries) // SAMPLED_SUBSCRIBERS)
        return sorted(
            (at - receipts[position]) * 1000
            for deliveries in self.deliveries[::step]
            for first, last, at in deliveries
            for position in range(first, last + 1)
        )

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, line: str) -> "LiveReport":
        """The reverse of `to_json`."""
        return cls(**json.loads(line))
