"""Events as they come out of a log, made readable as queries do it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from shared.aggregates.aggregate import pack_into
from shared.aggregates.known import known_aggregates
from shared.log.log import AggregateKey
from shared.personal.requests import MAX_KEYS
from shared.personal.sealing import DESTROYED, sealed_fields, unseal_event
from shared.security.tenants import TENANT_HEADER
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.personal_pb2 import GetKeysRequest

AGGREGATES = {aggregate.name: aggregate for aggregate in known_aggregates()}


async def keys_of(client: Any, events: Iterable[RecordedEvent]) -> dict[AggregateKey, bytes]:
    """The keys of all whom events are of, as a service gives them out."""
    ids: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for event in events:
        if any(sealed_fields(AGGREGATES[event.aggregate_type].unpack(event))):
            ids[event.tenant_id, event.aggregate_type].add(event.aggregate_id)
    keys = {}
    for (tenant_id, kind), wanted in ids.items():
        ordered = sorted(wanted)
        for start in range(0, len(ordered), MAX_KEYS):
            some = ordered[start : start + MAX_KEYS]
            response = await client.keys.GetKeys(
                GetKeysRequest(aggregate_type=kind, aggregate_ids=some),
                metadata=((TENANT_HEADER, tenant_id),),
                timeout=10.0,
            )
            for each in response.keys:
                keys[AggregateKey(tenant_id, kind, each.aggregate_id)] = each.key
    return keys


def readable(event: RecordedEvent, keys: Mapping[AggregateKey, bytes]) -> RecordedEvent:
    """The event with what is personal in it; empty where there is no key."""
    key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
    aggregate = AGGREGATES.get(event.aggregate_type)
    payload = aggregate.unpack_known(event) if aggregate else None
    if payload is None or not any(sealed_fields(payload)):
        return event
    shown = RecordedEvent()
    shown.CopyFrom(event)
    unseal_event(payload, key, event.version, keys.get(key, DESTROYED))
    pack_into(shown.payload, payload)
    return shown
