"""Events as JSON: one object each, from which the very same event can be made again.

    {"event_id": …, "event_type": "tidemark.v1.ShipDocked", "tenant_id": …,
     "aggregate_type": "ship", "aggregate_id": …, "version": 2, "position": 17,
     "occurred_at": "2026-01-01T12:00:00.000123Z", "correlation_id": …, "causation_id": …,
     "data": {"port": "Singapore"}}

Whatever else an event's envelope has follows, under its name in the contract, unless it is empty:
actor, command_fingerprint, traceparent. A payload that `data` does not say exactly, because its
type or a field of it is unknown here, is in `data_base64` as well, and that is what counts.
"""

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError, Message

from shared.aggregates.aggregate import TYPE_URL_PREFIX, Aggregate, pack
from shared.aggregates.known import known_aggregates
from shared.json_messages import JsonObject, as_json
from tidemark.v1.event_pb2 import RecordedEvent

NAMES = (
    "event_id", "event_type", "tenant_id", "aggregate_type", "aggregate_id", "version", "position",
    "occurred_at", "correlation_id", "causation_id", "data",
)  # fmt: skip
"""What every event says, in this order."""

ENVELOPE = frozenset(RecordedEvent.DESCRIPTOR.fields_by_name) - {"payload"}

KEPT_AS_JSON = "json/"
"""Stands in a payload's type_url, before the type, where its value is `data` as JSON: the type is
unknown, so there is no message to make of it."""


class NotAnEvent(ValueError):
    """No event can be made of it; the sentence says why."""


class EventTypes:
    """The messages of events by their names, from the aggregates that record them."""

    def __init__(self, aggregates: Iterable[Aggregate[Any]]) -> None:
        self._found = {
            event.DESCRIPTOR.full_name: (aggregate, event)
            for aggregate in aggregates
            for event in aggregate.events
        }
        self._full_names = {name.rpartition(".")[2]: name for name in self._found}

    def message(self, event_type: str) -> type[Message] | None:
        """The message of a type, by its full name; None: it is unknown."""
        found = self._found.get(event_type)
        return found[1] if found else None

    def aggregate(self, event_type: str) -> Aggregate[Any] | None:
        """The kind of aggregate that records events of a type; None: it is unknown."""
        found = self._found.get(event_type)
        return found[0] if found else None

    def full_name(self, event_type: str) -> str:
        """The full name of a type, which may be without its package; itself, if it is unknown."""
        return self._full_names.get(event_type, event_type)


EVENT_TYPES = EventTypes(known_aggregates())


def to_dict(event: RecordedEvent, types: EventTypes = EVENT_TYPES) -> JsonObject:
    """The event as JSON; see the module's description."""
    envelope = RecordedEvent()
    envelope.CopyFrom(event)
    envelope.ClearField("payload")
    said = as_json(envelope) | {"event_type": event_type_of(event)} | _data(event.payload, types)
    more = {name: value for name, value in said.items() if name not in NAMES and value}
    return {name: said[name] for name in NAMES if name in said} | more


def from_dict(described: JsonObject, types: EventTypes = EVENT_TYPES) -> RecordedEvent:
    """The event that the JSON describes. What it says beyond that is ignored.

    Raises:
        NotAnEvent: a field is missing or has the wrong form.
    """
    envelope = {name: described[name] for name in ENVELOPE if name in described}
    try:
        event = ParseDict(envelope, RecordedEvent())
    except ParseError as error:
        raise NotAnEvent(str(error)) from error
    event_type = described.get("event_type")
    if not isinstance(event_type, str) or not event_type:
        raise NotAnEvent("event_type is missing")
    event.payload.CopyFrom(payload_of(event_type, described, types))
    return event


def payload_of(event_type: str, described: JsonObject, types: EventTypes) -> AnyMessage:
    """The payload that `data`, or `data_base64`, describes.

    Raises:
        NotAnEvent: neither is there, or it has the wrong form.
    """
    if (encoded := described.get("data_base64")) is not None:
        try:
            value = base64.b64decode(encoded, validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise NotAnEvent("data_base64 is not in base64") from error
        return AnyMessage(type_url=TYPE_URL_PREFIX + event_type, value=value)
    data = described.get("data")
    if not isinstance(data, dict):
        raise NotAnEvent("data is not an object")
    message = types.message(event_type)
    if message is None:
        return AnyMessage(type_url=KEPT_AS_JSON + event_type, value=json.dumps(data).encode())
    try:
        return pack(ParseDict(data, message(), ignore_unknown_fields=True))
    except ParseError as error:
        raise NotAnEvent(str(error)) from error


def event_type_of(event: RecordedEvent) -> str:
    """The full name of its payload, for example "tidemark.v1.ShipDocked"."""
    return str(event.payload.type_url.rpartition("/")[2])


def _data(payload: AnyMessage, types: EventTypes) -> JsonObject:
    event_type = payload.type_url.rpartition("/")[2]
    if payload.type_url == KEPT_AS_JSON + event_type:
        return {"data": json.loads(payload.value)}
    encoded = {"data_base64": base64.b64encode(payload.value).decode()}
    message = types.message(event_type)
    try:
        known = message.FromString(payload.value) if message else None
    except DecodeError:
        known = None
    if known is None:
        return {"data": None, **encoded}
    data = {"data": as_json(known)}
    known.DiscardUnknownFields()
    return data if known.SerializeToString(deterministic=True) == payload.value else data | encoded
