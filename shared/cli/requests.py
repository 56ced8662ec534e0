"""From the fields of a request to options of a command, and back."""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from inspect import Parameter
from typing import Annotated, Any, NamedTuple

import typer
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from shared.cli.output import short_names

CONTEXT = "context"
"""The field of every command whose fields need no prefix."""


class Leaf(NamedTuple):
    """A field of a request, or of a message in it.

    Args:
        name: of the option, for example "as_of_version".
        path: the fields that lead to it.
        field: itself.
    """

    name: str
    path: tuple[str, ...]
    field: FieldDescriptor


def leaves(request: Descriptor, prefix: str = "", path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Everything that a request can say, in the order of its fields."""
    for field in request.fields:
        message = field.message_type
        name = prefix + field.name
        here = (*path, field.name)
        if message is None or message.full_name == Timestamp.DESCRIPTOR.full_name:
            yield Leaf(name, here, field)
        else:
            yield from leaves(message, "" if field.name == CONTEXT else f"{name}_", here)


def parameter(leaf: Leaf, id_field: str) -> Parameter:
    """The parameter of a command that takes a field: the aggregate's id stands by itself."""
    annotation: Any = _type_of(leaf.field)
    if leaf.name == id_field:
        annotated: Any = Annotated[annotation, typer.Argument(show_default=False)]
        return Parameter(leaf.name, Parameter.KEYWORD_ONLY, default="", annotation=annotated)
    option = typer.Option(f"--{leaf.name.replace('_', '-')}", show_default=False)
    if annotation is bool:
        annotated = Annotated[bool, option]
        return Parameter(leaf.name, Parameter.KEYWORD_ONLY, default=False, annotation=annotated)
    annotated = Annotated[annotation | None, option]
    return Parameter(leaf.name, Parameter.KEYWORD_ONLY, default=None, annotation=annotated)


def request_of(request: Descriptor, values: dict[str, Any]) -> Message:
    """The request that the options say; one that was not given stays unset.

    Raises:
        ValueError: a value that the field cannot hold.
    """
    message = message_factory.GetMessageClass(request)()
    for leaf in leaves(request):
        value = values.get(leaf.name)
        if value is None or value is False or value == "":
            continue
        holder: Any = message
        for name in leaf.path[:-1]:
            holder = getattr(holder, name)
        _set(holder, leaf.field, value)
    return message


def timestamp(written: str) -> Timestamp:
    """A time in ISO 8601, without a zone in UTC.

    Raises:
        ValueError: it is none.
    """
    moment = datetime.fromisoformat(written)
    found = Timestamp()
    found.FromDatetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    return found


def _set(holder: Any, field: Any, value: Any) -> None:
    if field.message_type is not None:
        getattr(holder, field.name).CopyFrom(timestamp(value))
    elif isinstance(value, Enum):
        setattr(holder, field.name, field.enum_type.values_by_name[value.name].number)
    else:
        setattr(holder, field.name, value)


def _type_of(field: FieldDescriptor) -> Any:
    if field.enum_type is not None:
        _, *names = short_names(field).items()
        return Enum(field.enum_type.name, {name: short.replace(" ", "-") for name, short in names})
    return {
        FieldDescriptor.CPPTYPE_BOOL: bool,
        FieldDescriptor.CPPTYPE_INT32: int,
        FieldDescriptor.CPPTYPE_INT64: int,
    }.get(field.cpp_type, str)
