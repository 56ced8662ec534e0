"""Events in the JSON of CloudEvents 1.0, for whatever takes those."""

from urllib.parse import quote

from shared.json_events import EVENT_TYPES, EventTypes, to_dict
from shared.json_messages import JsonObject
from tidemark.v1.event_pb2 import RecordedEvent

POSITION_DIGITS = 19


def to_cloudevent(event: RecordedEvent, types: EventTypes = EVENT_TYPES) -> JsonObject:
    """The event as a CloudEvent in structured mode.

    Its source is the aggregate, its id the event's. `sequence`, `correlationid` and `causationid`
    are CloudEvents' documented extensions. The sequence is the position in the log, padded so that
    it compares as text; numbers are text at all, because an integer there has 32 bits.
    """
    said = to_dict(event, types)
    data = {"datacontenttype": "application/json", "data": said["data"]}
    if data["data"] is None:
        data = {"datacontenttype": "application/protobuf", "data_base64": said["data_base64"]}
    source = "/".join(
        quote(said[name], safe="") for name in ("tenant_id", "aggregate_type", "aggregate_id")
    )
    extensions = {
        "tenantid": said["tenant_id"],
        "aggregatetype": said["aggregate_type"],
        "aggregateversion": str(said["version"]),
        "sequence": f"{said['position']:0{POSITION_DIGITS}}",
        "correlationid": said["correlation_id"],
        "causationid": said["causation_id"],
    }
    return {
        "specversion": "1.0",
        "id": said["event_id"],
        "source": f"/{source}",
        "type": said["event_type"],
        "subject": said["aggregate_id"],
        "time": said["occurred_at"],
        # An attribute is never empty.
        **{name: value for name, value in extensions.items() if value},
        **data,
    }
