"""The two older formats of events, from which a history can be brought along.

    {"event_id": …, "timestamp": …, "event_type": "ShipDocked", "entity_id": …, "data": {…}}
    {"event_id": …, "correlation_id": …, "occurred_at": …, "tenant_id": …,
     "event_type": "ShipDocked", "ship_id": …, "port": …}

Neither says a version or a position: those follow from the order. A time without a zone is taken as
UTC.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import uuid_utils

from shared.json_events import EventTypes, NotAnEvent, payload_of
from shared.json_messages import JsonObject
from shared.log.log import MICROSECONDS, timestamp_of
from shared.security.tenants import DEFAULT_TENANT
from tidemark.v1.event_pb2 import RecordedEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OlderEvent(NamedTuple):
    """An event without version and position, and whether its time had no zone."""

    event: RecordedEvent
    is_naive: bool


def is_older(described: JsonObject) -> bool:
    """Whether it is in one of the older formats."""
    return "aggregate_id" not in described


def from_older(described: JsonObject, types: EventTypes) -> OlderEvent:
    """The event that an object in one of the older formats describes.

    Raises:
        NotAnEvent: a field is missing or has the wrong form, or the type is unknown.
    """
    event_type = types.full_name(_text(described, "event_type"))
    aggregate = types.aggregate(event_type)
    if aggregate is None:
        raise NotAnEvent(f"event_type {event_type!r} is unknown")
    if "entity_id" in described:
        id_field, time_field, fields = "entity_id", "timestamp", described
    else:
        id_field, time_field, fields = aggregate.id_field, "occurred_at", {"data": described}
    moment, is_naive = _moment(_text(described, time_field))
    event = RecordedEvent(
        event_id=_uuid(_text(described, "event_id")),
        tenant_id=_optional_text(described, "tenant_id") or DEFAULT_TENANT,
        aggregate_type=aggregate.name,
        aggregate_id=_text(described, id_field),
        occurred_at=timestamp_of(moment),
        correlation_id=_optional_text(described, "correlation_id"),
        payload=payload_of(event_type, fields, types),
    )
    return OlderEvent(event, is_naive)


def _moment(written: str) -> tuple[int, bool]:
    """The time in microseconds, and whether it had no zone."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError as error:
        raise NotAnEvent(f"{written!r} is not a time in ISO 8601") from error
    is_naive = moment.tzinfo is None
    since = (moment.replace(tzinfo=UTC) if is_naive else moment) - _EPOCH
    return (since.days * 86_400 + since.seconds) * MICROSECONDS + since.microseconds, is_naive


def _text(described: JsonObject, name: str) -> str:
    if not (value := _optional_text(described, name)):
        raise NotAnEvent(f"{name} is missing")
    return value


def _optional_text(described: JsonObject, name: str) -> str:
    value = described.get(name)
    if value is not None and not isinstance(value, str):
        raise NotAnEvent(f"{name} is not a text")
    return value or ""


def _uuid(written: str) -> str:
    try:
        return str(uuid_utils.UUID(written))
    except ValueError as error:
        raise NotAnEvent(f"event_id {written!r} is not a UUID") from error
