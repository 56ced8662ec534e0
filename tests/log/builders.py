"""Keys, events and commits, with as little said as a test needs."""

from collections.abc import Sequence
from hashlib import sha256
from uuid import NAMESPACE_OID, UUID, uuid5

from google.protobuf.message import Message

from shared.log.log import MICROSECONDS, AggregateKey, CommandKey, Commit, Snapshot
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import ShipDocked

SECOND = MICROSECONDS
HOUR = 3600 * SECOND
NOON = 1_767_268_800 * SECOND
"""2026-01-01T12:00:00Z."""


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


def ship(aggregate_id: str = "aurora", tenant_id: str = "acme") -> AggregateKey:
    return AggregateKey(tenant_id, "ship", aggregate_id)


def user(aggregate_id: str = "ada", tenant_id: str = "acme") -> AggregateKey:
    return AggregateKey(tenant_id, "user", aggregate_id)


def command(number: int, tenant_id: str = "acme") -> CommandKey:
    return CommandKey(tenant_id, str(UUID(int=number)))


def fingerprint(key: CommandKey) -> bytes:
    return sha256(repr(key).encode()).digest()


def snapshot(version: int, *, schema: bytes = b"schema 1", state: bytes = b"state") -> Snapshot:
    return Snapshot(version, schema, state)


def event(
    key: AggregateKey,
    version: int,
    payload: Message,
    *,
    caused_by: CommandKey | None = None,
    correlation_id: str = "",
) -> RecordedEvent:
    """Complete but for position and occurred_at, which the log sets."""
    recorded = RecordedEvent(
        event_id=str(uuid5(NAMESPACE_OID, f"{key} {version}")),
        tenant_id=key.tenant_id,
        aggregate_type=key.aggregate_type,
        aggregate_id=key.aggregate_id,
        version=version,
        correlation_id=correlation_id,
        actor="harbour master",
    )
    if caused_by is not None:
        recorded.causation_id = caused_by.command_id
        recorded.command_fingerprint = fingerprint(caused_by)
    recorded.payload.Pack(payload)
    return recorded


def commit(
    key: AggregateKey,
    expected_version: int = 0,
    events: int | Sequence[Message] = 1,
    *,
    command: CommandKey | None = None,
    correlation_id: str = "",
    snapshot: Snapshot | None = None,
) -> Commit:
    """Args: events: so many of any kind, or these."""
    payloads = [ShipDocked(port="Oslo")] * events if isinstance(events, int) else events
    recorded = [
        event(key, version, payload, caused_by=command, correlation_id=correlation_id)
        for version, payload in enumerate(payloads, start=expected_version + 1)
    ]
    return Commit(key, expected_version, recorded, command, snapshot)


def assertion(key: AggregateKey, version: int) -> Commit:
    """A commit that writes nothing, and fails at another version."""
    return Commit(key, version, [])
