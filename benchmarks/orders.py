"""What a load process is told, and what it answers: lines of JSON."""

import base64
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from benchmarks.errors import BenchmarkFailed

READY = "ready\n"
"""What a load process says once it is connected and could begin."""


def say(line: str) -> None:
    """Writes a line to standard output at once."""
    sys.stdout.write(line)
    sys.stdout.flush()


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
        pause_s: seconds that each caller waits after an answer, for a load that knows it.
        tenant: whose calls they are; empty: the default tenant's.
        follower: HOST:PORT of the query service, for a load that also asks what it has caused.
        operations: how many each request stands for.
        in_flight: how many requests a stream has sent that are not answered yet.
        program: the module that obeys it, as `benchmarks.load` does.
    """

    address: str
    method: str
    requests: Requests
    callers: int
    load: str = "unary"
    pause_s: float = 0.0
    tenant: str = ""
    follower: str = ""
    operations: int = 1
    in_flight: int = 1
    program: str = "benchmarks.load"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """That of every call."""
        return (("x-tenant-id", self.tenant),) if self.tenant else ()

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
        cpu_s: CPU seconds from learning the window to this report.
        peak_rss_bytes: of the load process.
        receipts: the position that each command was acknowledged with, and when, in seconds of the
            machine's monotonic clock; empty for a load that does not look.
    """

    operations: int
    all_operations: int
    latencies_us: list[int]
    cpu_s: float
    peak_rss_bytes: int
    receipts: list[tuple[int, float]] = field(default_factory=list)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, line: str) -> "LoadReport":
        """The reverse of `to_json`."""
        return cls(**json.loads(line))
