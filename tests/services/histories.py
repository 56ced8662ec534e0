"""Logs as Subscribe gives them out, and the states that their events led to."""

from collections.abc import Iterable
from typing import Any

from shared.aggregates.aggregate import Aggregate
from shared.log.log import EMPTY_DIGEST, chain
from tests.services.caller import DEADLINE_S, OF_EVERY_TENANT
from tests.services.deployment import CommandClient, QueryClient
from tidemark.internal.v1.stored_pb2 import StoredSubscribeResponse
from tidemark.v1.event_pb2 import Checkpoint, RecordedEvent, SubscribeRequest


def folded(aggregate: Aggregate[Any], events: Iterable[RecordedEvent]) -> Any:
    """The state that events of one aggregate led to; None before the first."""
    state = None
    for event in events:
        state = aggregate.fold(state, event)
    return state


def states(aggregate: Aggregate[Any], events: Iterable[RecordedEvent]) -> list[Any]:
    """The states of all aggregates of a kind in one tenant, by id."""
    by_id: dict[str, Any] = {}
    for event in events:
        if event.aggregate_type == aggregate.name:
            by_id[event.aggregate_id] = aggregate.fold(by_id.get(event.aggregate_id), event)
    return [by_id[aggregate_id] for aggregate_id in sorted(by_id)]


class WholeLog:
    """The log as a service gives it out: the stored bytes of every tenant's events."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.checkpoint = Checkpoint(digest=EMPTY_DIGEST)

    @classmethod
    async def of(cls, client: CommandClient | QueryClient) -> "WholeLog":
        """All of it."""
        log = cls()
        await log.read_on(client)
        return log

    async def read_on(self, client: CommandClient | QueryClient) -> None:
        """Reads what follows up to the head, as who comes back with a checkpoint."""
        subscribe = client.channel.unary_stream(
            "/tidemark.v1.EventLogService/Subscribe",
            request_serializer=SubscribeRequest.SerializeToString,
            response_deserializer=StoredSubscribeResponse.FromString,
        )
        request = SubscribeRequest(
            after_position=self.checkpoint.position,
            after_digest=self.checkpoint.digest,
            stop_at_head=True,
        )
        stream: Any = subscribe(
            request, metadata=OF_EVERY_TENANT, timeout=DEADLINE_S, wait_for_ready=True
        )
        async for response in stream:
            self.records += response.events
            self.checkpoint = response.checkpoint

    @property
    def events(self) -> list[RecordedEvent]:
        """The events in it."""
        return [RecordedEvent.FromString(record) for record in self.records]

    @property
    def computed_digest(self) -> bytes:
        """The digest of what came, from nothing but the bytes."""
        digest = EMPTY_DIGEST
        for record in self.records:
            digest = chain(digest, record)
        return digest
