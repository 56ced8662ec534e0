"""Messages as JSON: protobuf's own mapping, but with numbers where it writes numbers as text."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

JsonObject = dict[str, Any]

_LONG = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}


def as_json(message: Message) -> JsonObject:
    """The message, its fields named and ordered as in the .proto, those at 0 included.

    64-bit integers are numbers, exact as they stand. Every protobuf reads them from a number as
    well as from text; what keeps all numbers as doubles loses those beyond 2^53.
    """
    described = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _with_numbers(described, message.DESCRIPTOR)


def _with_numbers(described: JsonObject, descriptor: Any) -> JsonObject:
    return {
        field.name: _numbered(described[field.name], field)
        for field in descriptor.fields
        if field.name in described
    }


def _numbered(value: Any, field: FieldDescriptor) -> Any:
    if isinstance(value, list):
        return [_numbered(each, field) for each in value]
    message = field.message_type
    if message is None:
        return int(value) if field.cpp_type in _LONG else value
    if message.file.package == "google.protobuf":
        # These have a form of their own in JSON: a Timestamp is text.
        return value
    if message.GetOptions().map_entry:
        content = message.fields_by_name["value"]
        return {key: _numbered(value[key], content) for key in sorted(value)}
    return _with_numbers(value, message)
