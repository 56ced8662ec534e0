"""Random messages, made of descriptors: many make sense together, and none is left out."""

from functools import cache
from typing import Any

from google.protobuf import message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    OneofDescriptor,
)
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from shared.aggregates.aggregate import pack
from tests.fuzzing.bad_values import MAX_INT32, MAX_INT64, MIN_INT32, MIN_INT64
from tests.fuzzing.cases import WAITING
from tests.fuzzing.contract import COMMANDS, METHODS, choices, is_map, is_ours
from tests.fuzzing.valid import WORD, WORDS

Request = tuple[MethodDescriptor, bytes]

Around = tuple[Descriptor, ...]
"""The messages that a field is in."""

FEW = 3
"""Elements of a list, entries of a map."""

# So few that a command meets what another one made.
IDS = st.sampled_from([WORD, "two"])
COMMAND_IDS = st.integers(1, 30).map(lambda number: f"00000000-0000-4000-8000-{number:012}")
# Beyond what there is by one, which is waited for, and by no more.
MOMENTS = st.sampled_from([0, 0, 0, 0, 1, 1, -1, 2])

RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (MIN_INT32, MAX_INT32),
    FieldDescriptor.CPPTYPE_INT64: (MIN_INT64, MAX_INT64),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def requests() -> st.SearchStrategy[Request]:
    """Random messages to every RPC of the contract."""
    return st.sampled_from([method for method in METHODS if is_ours(method)]).flatmap(
        lambda method: messages(method.input_type).map(
            lambda message: (method, message.SerializeToString())
        )
    )


def noise() -> st.SearchStrategy[Request]:
    """Random bytes to every RPC there is."""
    return st.tuples(st.sampled_from(METHODS), st.binary(max_size=200))


def damaged() -> st.SearchStrategy[Request]:
    """Messages some of whose bytes are others, or missing, or too many."""
    damage = st.tuples(st.integers(0, 1000), st.integers(0, 3), st.binary(max_size=3))
    return st.builds(_damaged, requests(), st.lists(damage, min_size=1, max_size=FEW))


def _damaged(request: Request, damages: list[tuple[int, int, bytes]]) -> Request:
    method, content = request
    for place, count, other in damages:
        start = place % (len(content) + 1)
        content = content[:start] + other + content[start + count :]
    return method, content


@cache
def messages(message: Descriptor, *within: Descriptor) -> st.SearchStrategy[Message]:
    """Messages of a type; what is said to be one of a few is one of them or none.

    Args:
        message: the type.
        within: those that it is in, which are not in it again.
    """
    made: Any = message_factory.GetMessageClass(message)
    alternatives = list(choices(message))
    of_oneofs = {field.name for oneof in alternatives for field in oneof.fields}
    around = (*within, message)
    values = {
        field: _values(field, around)
        for field in message.fields
        if field.name not in of_oneofs and field.message_type not in around
    }
    plain = st.fixed_dictionaries(
        {field.name: each for field, each in values.items() if not field.has_presence},
        optional={field.name: each for field, each in values.items() if field.has_presence},
    )
    chosen = st.tuples(*(_chosen(oneof, around) for oneof in alternatives)).map(
        lambda each: dict(filter(None, each))
    )
    return st.builds(lambda one, other: made(**one, **other), plain, chosen)


def _chosen(oneof: OneofDescriptor, around: Around) -> st.SearchStrategy[tuple[str, Any] | None]:
    members = [st.tuples(st.just(field.name), _values(field, around)) for field in oneof.fields]
    return st.none() | st.one_of(members)


def _values(field: FieldDescriptor, around: Around) -> st.SearchStrategy[Any]:
    if is_map(field):
        assert field.message_type is not None
        key, value = field.message_type.fields
        return st.dictionaries(_single(key, around), _single(value, around), max_size=FEW)
    if field.is_repeated:
        return st.lists(_single(field, around), max_size=FEW)
    return _single(field, around)


def _single(field: FieldDescriptor, around: Around) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            assert field.message_type is not None
            return _inner(field.message_type, around)
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return st.just(b"") | st.binary(max_size=40)
        case FieldDescriptor.CPPTYPE_STRING if field.name == "command_id":
            return st.just("") | COMMAND_IDS
        case FieldDescriptor.CPPTYPE_STRING:
            return st.just(WORDS.get(field.name, WORD)) | IDS | st.text(max_size=300)
        case FieldDescriptor.CPPTYPE_ENUM:
            return st.integers(-1, 5) | st.integers(MIN_INT32, MAX_INT32)
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return st.floats(width=32)
        case _ if field.name in WAITING:
            return MOMENTS
        case _:
            return st.integers(0, 10) | st.integers(*RANGES[field.cpp_type])


def _inner(message: Descriptor, around: Around) -> st.SearchStrategy[Message]:
    match message.full_name:
        case "google.protobuf.Any":
            commands = [messages(method.input_type).map(pack) for method in COMMANDS]
            others = st.builds(AnyMessage, type_url=st.text(), value=st.binary())
            return st.one_of(commands) | others
        case "google.protobuf.Timestamp":
            seconds = st.integers(0, 4_102_444_800) | st.integers(MIN_INT64, MAX_INT64)
            nanos = st.just(0) | st.integers(MIN_INT32, MAX_INT32)
            return st.builds(Timestamp, seconds=seconds, nanos=nanos)
        case _:
            return messages(message, *around)
