"""What a load process is told, and what it answers: lines of JSON."""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks.errors import BenchmarkFailed

READY = "ready\n"
"""What a load process says once it is connected and could begin."""


@dataclass(frozen=True)
class Requests:
    """Serialized requests, in the order in which they are sent.

    Args:
        messages: the requests.
        is_cyclic: begin again after the last one; otherwise running out of them is a failure.
    """

    messages: Sequence[bytes]
    is_cyclic: bool

    def supply(self) -> Iterator[bytes]:
        """The requests, one after the other.

        Raises:
            BenchmarkFailed: there are no more.
        """
        yield from self.messages
        while self.is_cyclic:
            yield from self.messages
        raise BenchmarkFailed(f"More than {len(self.messages)} requests were needed")

    def share(self, number: int, count: int) -> "Requests":
        """The part that one of several load processes sends: one that is not cyclic, alone."""
        if self.is_cyclic and len(self.messages) < count:
            return self
        return Requests(self.messages[number::count], self.is_cyclic)


@dataclass(frozen=True)
class Order:
    """What a load process is to do.

    Args:
        address: HOST:PORT of the server.
        method: full path of the RPC.
        requests: what the callers send, between them.
        callers: each sends its next call once its last one is answered.
        load: which of `benchmarks.loads.LOADS`.
    """

    address: str
    method: str
    requests: Requests
    callers: int
    load: str = "unary"

    def split(self, count: int) -> list["Order"]:
        """The same for so many load processes together, or fewer if there are fewer callers."""
        count = min(count, self.callers)
        return [
            replace(
                self,
                requests=self.requests.share(number, count),
                callers=len(range(number, self.callers, count)),
            )
            for number in range(count)
        ]

    def to_json(self) -> str:
        """One line."""
        fields = asdict(self)
        messages = [base64.b64encode(message).decode() for message in self.requests.messages]
        fields["requests"] = {"messages": messages, "is_cyclic": self.requests.is_cyclic}
        return json.dumps(fields) + "\n"

    @classmethod
    def from_json(cls, line: str) -> "Order":
        """The reverse of `to_json`."""
        fields = json.loads(line)
        requests = fields.pop("requests")
        messages = [base64.b64decode(message) for message in requests["messages"]]
        return cls(requests=Requests(messages, requests["is_cyclic"]), **fields)


@dataclass(frozen=True)
class Window:
    """When what happens counts: seconds of the machine's monotonic clock."""

    begin: float
    end: float

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, line: str) -> "Window":
        """The reverse of `to_json`."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class LoadReport:
    """What a load process answers.

    Args:
        operations: completed within the window.
        all_operations: completed, those before and after the window included.
        latencies_us: of each call that was completed within the window, in microseconds.
        peak_rss_bytes: of the load process.
    """

    operations: int
    all_operations: int
    latencies_us: list[int]
    peak_rss_bytes: int

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, line: str) -> "LoadReport":
        """The reverse of `to_json`."""
        return cls(**json.loads(line))
