"""Which fields are personal: those that the contract says it of."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from shared.aggregates.aggregate import Aggregate
from shared.log.log import AggregateKey
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.personal_pb2 import personal


def personal_fields(message: type[Message]) -> tuple[str, ...]:
    """The names of those that a message has.

    Raises:
        TypeError: one is not text, or is in a message of a message, where it would be overlooked.
    """
    return _personal_fields(message.DESCRIPTOR)


def erasing_events(aggregates: Iterable[Aggregate[Any]]) -> frozenset[str]:
    """Full names of the events that erase what is personal."""
    return frozenset(
        each.erased_by.DESCRIPTOR.full_name for each in aggregates if each.erased_by is not None
    )


def erased_by(record: bytes) -> AggregateKey:
    """Whom such an event, as it is stored, is of."""
    event = RecordedEvent.FromString(record)
    return AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)


@cache
def _personal_fields(message: Descriptor) -> tuple[str, ...]:
    for field in message.fields:
        if field.message_type is not None and _has_personal(field.message_type, frozenset()):
            raise TypeError(f"{field.full_name} has personal fields within")
    found = [field for field in message.fields if _is_personal(field)]
    for field in found:
        if field.type != FieldDescriptor.TYPE_STRING or field.is_repeated:
            raise TypeError(f"{field.full_name} is personal and not a text")
    return tuple(field.name for field in found)


def _is_personal(field: FieldDescriptor) -> bool:
    return bool(field.GetOptions().Extensions[personal])


def _has_personal(message: Descriptor, above: frozenset[str]) -> bool:
    if message.full_name in above:
        return False
    return any(
        _is_personal(field)
        or (
            field.message_type is not None
            and _has_personal(field.message_type, above | {message.full_name})
        )
        for field in message.fields
    )
