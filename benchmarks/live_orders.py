"""What a process of live subscribers is told, and what it answers: lines of JSON."""

import json
from dataclasses import asdict, dataclass


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

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, line: str) -> "LiveReport":
        """The reverse of `to_json`."""
        return cls(**json.loads(line))
