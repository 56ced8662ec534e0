"""Valid requests, from nothing but their descriptors and a few words of the domain."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from command_service.aggregates import RULES
from query_service.projections import PROJECTIONS
from tests.fuzzing.contract import choices
from tests.fuzzing.wire import delimited

WORD = "one"
"""Everything is called this, so that what one RPC makes another one finds."""

WORDS = {
    "aggregate_type": RULES[0].aggregate.name,
    "aggregate_types": RULES[0].aggregate.name,
    "event_types": min(RULES[0].aggregate.event_types),
    "name": PROJECTIONS[0].name,
    "page_token": "",
}
"""But for fields in which not every text is possible."""


def valid(message: Descriptor, without: FieldDescriptor | None = None) -> Message:
    """A message with a value in each field that is no list, no message and not optional.

    Args:
        message: its type.
        without: a field to leave out, and with it all others of its oneof.
    """
    made: Any = message_factory.GetMessageClass(message)()
    left_out = {without.name} if without else set()
    of_oneofs: set[str] = set()
    for oneof in choices(message):
        members = [field.name for field in oneof.fields]
        of_oneofs.update(members)
        if left_out.isdisjoint(members):
            scalars = [field for field in oneof.fields if field.message_type is None]
            for field in scalars[:1]:
                setattr(made, field.name, valid_scalar(field))
    for field in message.fields:
        is_plain = not field.is_repeated and not field.has_presence
        if is_plain and field.name not in left_out | of_oneofs:
            setattr(made, field.name, valid_scalar(field))
    return made  # type: ignore[no-any-return]  # a message, by its class


def spoilt(message: Descriptor, path: Sequence[FieldDescriptor], record: bytes) -> bytes:
    """The bytes of a valid message in which the field at a path is what a test says.

    Args:
        message: its type.
        path: to the field.
        record: the field as it stands in its message; empty: not at all.
    """
    first, *rest = path
    if rest:
        assert first.message_type is not None
        record = delimited(first.number, spoilt(first.message_type, rest, record))
    return valid(message, without=first).SerializeToString() + record


def valid_scalar(field: FieldDescriptor) -> Any:
    """A value that is right in most fields of the type."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return b""
        case FieldDescriptor.CPPTYPE_STRING:
            return str(uuid4()) if field.name == "command_id" else WORDS.get(field.name, WORD)
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            return max(value.number for value in field.enum_type.values[:2])
        case FieldDescriptor.CPPTYPE_BOOL:
            return False
        case _:
            return 1
