"""Events as flat dictionaries: what the envelope says beside the fields of the payload.

    {"event_id": …, "correlation_id": …, "occurred_at": …, "tenant_id": …,
     "event_type": "tidemark.v1.ShipDocked", "ship_id": …, "port": …}

It is the second of the older formats, and is read as that. It has no version and no position.
"""

from shared.json_events import EVENT_TYPES, EventTypes, to_dict
from shared.json_messages import JsonObject
from tidemark.v1.event_pb2 import RecordedEvent

NAMES = ("event_id", "correlation_id", "occurred_at", "tenant_id", "event_type")


class NotFlat(ValueError):
    """The event cannot be said as a flat dictionary; the sentence says why."""


def to_flat(event: RecordedEvent, types: EventTypes = EVENT_TYPES) -> JsonObject:
    """The event as a flat dictionary, with the aggregate's id as `<aggregate>_id`.

    Fields of the payload that are unknown here are left out.

    Raises:
        NotFlat: the payload cannot be read, or a field of it has the name of one of the envelope's.
    """
    said = to_dict(event, types)
    event_type = said["event_type"]
    data: JsonObject | None = said["data"]
    if data is None:
        why = "does not parse" if types.message(event_type) else "is of a type unknown here"
        raise NotFlat(f"The payload, {event_type}, {why}")
    envelope = {name: said[name] for name in NAMES}
    envelope[f"{event.aggregate_type}_id"] = event.aggregate_id
    if twice := sorted(envelope.keys() & data.keys()):
        raise NotFlat(f"{event_type} has fields of the envelope's names: {', '.join(twice)}")
    return envelope | data
