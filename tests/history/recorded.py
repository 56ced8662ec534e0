"""What the clients of a run asked, what came back and when; and what was found afterwards.

Clients write this down while services are killed, cut off and cheated; `tests.history.checker`
decides from it, and from nothing else, whether every promise was kept. Times are seconds of the one
monotonic clock of the process that runs the clients.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from shared.log.log import AggregateKey
from tidemark.v1.event_pb2 import EventFilter
from tidemark.v1.query_pb2 import ReplayResponse

PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
"""Of a failure that says nothing of what was asked for: to be tried again."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The service's own word, with a reason: a command that got it had no effect.

    Not DATA_LOSS, INTERNAL, DEADLINE_EXCEEDED or CANCELLED, which are `Unknown` for a command.
    """

    code: grpc.StatusCode
    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unknown:
    """No answer, or one that does not tell whether the command took effect: cut off, timed out."""

    why: str


@dataclass(frozen=True, slots=True)
class Call:
    """A command or a query, with everything that it carried, and what came of it.

    A retry is a call of its own, with the same command_id. A command of a bulk stream is recorded
    like any other, invoked when its request was written. What clients ask is of the right shape.

    Args:
        client: which of the clients; each has at most one call at a time, except in bulk.
        server: name of the service that was asked.
        tenant_id: whose.
        request: the command (`tidemark.v1.DockShip`, …) or the query (`GetShipRequest`, …).
        invoked: before it was sent.
        ended: after the answer.
        answer: a CommandReceipt, or the query's response, if it was successful. Of Replay, what
            `Replayed` holds.
        is_bulk: whether it was one of the commands of a bulk stream.
    """

    client: str
    server: str
    tenant_id: str
    request: Message
    invoked: float
    ended: float
    answer: "Message | Replayed | Failure | Unknown"
    is_bulk: bool = False


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a Replay streamed up to its end."""

    responses: tuple[ReplayResponse, ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One response of a subscription.

    Args:
        received: when.
        events: the serialized `RecordedEvent`s, as they came.
        position: of its checkpoint: everything up to here was sent or filtered out.
        digest: of its checkpoint; empty on a stream that does not carry the whole log.
        head_position: of its checkpoint.
    """

    received: float
    events: tuple[bytes, ...]
    position: int
    digest: bytes
    head_position: int


@dataclass(slots=True)
class Subscription:
    """A subscriber that comes back with its last checkpoint whenever its stream breaks.

    Args:
        client: which of the clients.
        tenant_id: whose events; `*`: everybody's.
        event_filter: which of them.
        after_position: where the first connection began.
        from_time: or the moment from which on.
        from_head: or whether it asked for what happens from now on; then `after_position` is what
            its server had told it of before, on that very connection.
        connections: each with the responses that came on it. The first begins as it was told to,
            each later one resumes after the last checkpoint before it.
        ends: with what they broke, those that did not end without a word.
    """

    client: str
    tenant_id: str
    event_filter: EventFilter
    after_position: int = 0
    from_time: Timestamp | None = None
    from_head: bool = False
    connections: list[list[Delivery]] = field(default_factory=list)
    ends: list[Failure | Unknown] = field(default_factory=list)


@dataclass(slots=True)
class Watching:
    """One connection of a watch.

    Args:
        min_position: that it asked for.
        responses: what came on it, and when.
        end: when and with what it broke; None: it did not, or without a word.
    """

    min_position: int
    responses: list[tuple[float, Message]] = field(default_factory=list)
    end: tuple[float, Failure | Unknown] | None = None


@dataclass(slots=True)
class Watch:
    """A WatchShip or WatchUser, which its client starts anew whenever it breaks.

    Args:
        client: which of the clients.
        tenant_id: whose.
        request: of the first connection; later ones ask for the last position that was seen.
        connections: one after the other.
    """

    client: str
    tenant_id: str
    request: Message
    connections: list[Watching] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LogCopy:
    """A whole log as a service gave it out after the run.

    Args:
        server: name of the service.
        records: the serialized `RecordedEvent`s, from the first to the head.
        digest: of the last checkpoint.
    """

    server: str
    records: tuple[bytes, ...]
    digest: bytes


@dataclass(frozen=True, slots=True)
class Pages:
    """All pages of one list query, asked for when nothing was being written any more.

    Args:
        tenant_id: whose.
        request: of the first page.
        responses: page by page.
    """

    tenant_id: str
    request: Message
    responses: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Views:
    """Everything that one query service's projections show, of every tenant, after the run.

    Args:
        server: name of the service.
        followed: as they were kept up to date all along.
        rebuilt: after each was rebuilt; the same queries in the same order.
    """

    server: str
    followed: tuple[Pages, ...]
    rebuilt: tuple[Pages, ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    """How things came back after the last fault, with nobody's help.

    Args:
        seconds: from the end of the last fault until a command was acknowledged and every query
            service had shown it.
        limit: what is allowed.
        ailments: what was not as it should be then: a service not serving, a projection faulted.
    """

    seconds: float
    limit: float
    ailments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A projection was rebuilt: the queries of that time met it.

    Args:
        server: name of the service.
        projection: which one.
        began: when it was asked for.
        ended: when it was done, or was not.
        failure: why it was not; None: it was.
    """

    server: str
    projection: str
    began: float
    ended: float
    failure: Failure | Unknown | None = None


@dataclass(slots=True)
class History:
    """A run: what clients saw in it, and what was there afterwards."""

    calls: list[Call] = field(default_factory=list)
    subscriptions: list[Subscription] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    log: LogCopy = LogCopy("command_service", (), bytes(32))
    """The command service's."""
    keys: Mapping[AggregateKey, bytes] = field(default_factory=dict)
    """With which what is personal in it was encrypted."""
    replicas: list[LogCopy] = field(default_factory=list)
    views: list[Views] = field(default_factory=list)
    rebuilds: list[Rebuild] = field(default_factory=list)
    strikes: list[tuple[float, float]] = field(default_factory=list)
    """From when to when each fault was there."""
    recovery: Recovery = Recovery(0.0, 10.0)
