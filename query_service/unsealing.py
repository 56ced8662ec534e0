"""What is personal, made readable in answers, and nowhere else: all that is stored is encrypted."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from shared.aggregates.aggregate import TYPE_URL_PREFIX, Aggregate, pack_into
from shared.log.log import AggregateKey
from shared.personal.fields import personal_fields
from shared.personal.sealing import Keys, sealed_fields, unseal_event, unseal_state
from tidemark.v1.event_pb2 import RecordedEvent


class KeySource(Protocol):
    """Where keys are found."""

    async def find(self, aggregates: Collection[AggregateKey]) -> Keys:
        """The keys of aggregates, all of one tenant and of one kind."""
        ...


class Unsealing:
    """Decrypts states and events with the keys that there are; erased fields become empty.

    Its methods raise what `find` does, see `query_service.keys.UpstreamKeys`, and DataLoss,
    LOG_CORRUPT. Where nothing is encrypted they need no key.

    Args:
        keys: these.
        aggregates: the kinds that there are.
    """

    def __init__(self, keys: KeySource, aggregates: Iterable[Aggregate[Any]]) -> None:
        self._keys = keys
        self._events = {
            TYPE_URL_PREFIX + event.DESCRIPTOR.full_name
            for aggregate in aggregates
            for event in aggregate.events
            if personal_fields(event)
        }

    async def states(
        self, aggregate: Aggregate[Any], tenant_id: str, states: Sequence[Any]
    ) -> None:
        """Decrypts states of one tenant's aggregates, in place."""
        encrypted = {
            AggregateKey(tenant_id, aggregate.name, getattr(state, aggregate.id_field)): state
            for state in states
            if any(sealed_fields(state))
        }
        if encrypted:
            keys = await self._keys.find(encrypted.keys())
            for key, state in encrypted.items():
                unseal_state(state, key, keys[key])

    async def shown(self, aggregate: Aggregate[Any], tenant_id: str, state: Any) -> Any:
        """A state that is folded further, as callers see it: a copy, if anything is encrypted."""
        if not any(sealed_fields(state)):
            return state
        copy = aggregate.state()
        copy.CopyFrom(state)
        await self.states(aggregate, tenant_id, [copy])
        return copy

    async def event(self, aggregate: Aggregate[Any], event: RecordedEvent) -> None:
        """Decrypts the payload of an event, in place."""
        if event.payload.type_url not in self._events:
            return
        payload = aggregate.unpack(event)
        if any(sealed_fields(payload)):
            key = AggregateKey(event.tenant_id, aggregate.name, event.aggregate_id)
            keys = await self._keys.find([key])
            unseal_event(payload, key, event.version, keys[key])
            pack_into(event.payload, payload)
