"""That no field is forgotten: neither one of the contract, nor one that is yet to come."""

from importlib.resources import files
from math import inf
from typing import Any

import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_tools import protoc
from hypothesis import HealthCheck, given, settings

from tests.fuzzing.bad_values import (
    INVALID,
    MALFORMED,
    MAX_INT32,
    MAX_INT64,
    MIN_INT32,
    MIN_INT64,
    NO_COMMAND,
)
from tests.fuzzing.cases import Case, cases, cases_of_fields
from tests.fuzzing.contract import COMMANDS, METHODS
from tests.fuzzing.random_messages import messages

every_rpc = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)


def fields_within(message: Descriptor, before: str = "") -> set[str]:
    """Every field, by its dotted name; Google's own messages are values."""
    found = set()
    for name, field in message.fields_by_name.items():
        found.add(before + name)
        inner = field.message_type
        if inner is not None and not inner.full_name.startswith("google.protobuf."):
            found |= fields_within(inner, f"{before}{name}.")
    return found


def parses(message: Descriptor, content: bytes) -> bool:
    try:
        message_factory.GetMessageClass(message).FromString(content)
    except DecodeError:
        return False
    return True


@every_rpc
def test_every_field_of_every_rpc_has_its_bad_values(method: MethodDescriptor) -> None:
    tried = {case.field for case in cases(method)}

    assert tried == {"", "x-tenant-id", *fields_within(method.input_type)}


@every_rpc
def test_what_has_to_be_malformed_does_not_parse_and_what_has_a_bad_value_does(
    method: MethodDescriptor,
) -> None:
    for case in cases(method):
        if case.allowed.reason in {INVALID, NO_COMMAND}:
            assert parses(method.input_type, case.request), case
        elif case.allowed.reason == MALFORMED and "in it" not in case.label:
            assert not parses(method.input_type, case.request), case


# A message that nobody has written yet

MADE_UP = """
syntax = "proto3";

package made.up;

import "google/protobuf/any.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/timestamp.proto";

message Embark {
  string passenger_id = 1;
  string name = 2;
  string command_id = 3;
  string page_token = 4;
  int32 page_size = 5;
  int64 min_position = 6;
  Deck deck = 7;
  Cabin cabin = 8;
  Embark with = 9;
  google.protobuf.Timestamp at = 10;
  google.protobuf.Any packed = 11;
  oneof paid {
    int64 cash = 12;
    google.protobuf.Empty not_yet = 13;
  }
  optional int64 age = 14;
  repeated int64 numbers = 15;
  repeated string texts = 16;
  map<string, int64> luggage = 17;
  bool a_bool = 18;
  bytes some_bytes = 19;
  double a_double = 20;
  float a_float = 21;
  int32 an_int32 = 22;
  int64 an_int64 = 23;
  uint32 a_uint32 = 24;
  uint64 a_uint64 = 25;
  sint32 a_sint32 = 26;
  sint64 a_sint64 = 27;
  fixed32 a_fixed32 = 28;
  fixed64 a_fixed64 = 29;
  sfixed32 an_sfixed32 = 30;
  sfixed64 an_sfixed64 = 31;
}

enum Deck {
  DECK_UNSPECIFIED = 0;
  DECK_UPPER = 1;
}

message Cabin {
  string name = 1;
}
"""


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Descriptor:
    """A request that nobody has written yet, with a field of every kind."""
    folder = tmp_path_factory.mktemp("protos")
    (folder / "made_up.proto").write_text(MADE_UP)
    compiled = folder / "compiled"
    includes = [f"--proto_path={each}" for each in (folder, files("grpc_tools") / "_proto")]
    output = f"--descriptor_set_out={compiled}"
    assert protoc.main(["", *includes, output, "made_up.proto"]) == 0
    [file] = FileDescriptorSet.FromString(compiled.read_bytes()).file
    # The classes of what it imports are those of this pool.
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindMessageTypeByName("made.up.Embark")


@pytest.fixture(scope="module")
def tried(made_up: Descriptor) -> list[Case]:
    """Its cases."""
    return list(cases_of_fields(made_up))


def values(message: Descriptor, tried: list[Case], name: str) -> list[tuple[str | None, Any]]:
    """What the cases have in a field, as a service reads it, and with what it is refused."""
    return [
        (case.allowed.reason, value_in(message, case))
        for case in tried
        if case.field == name and parses(message, case.request)
    ]


def value_in(message: Descriptor, case: Case) -> Any:
    value: Any = message_factory.GetMessageClass(message).FromString(case.request)
    for part in case.field.split("."):
        value = getattr(value, part)
    return value.SerializeToString() if isinstance(value, Message) else value


def test_every_field_of_a_new_message_has_its_bad_values(
    made_up: Descriptor, tried: list[Case]
) -> None:
    names = {*(field.name for field in made_up.fields), "cabin.name"}

    assert {case.field for case in tried} == names
    assert {case.field for case in tried if case.label == "missing"} == names
    malformed = {case.field for case in tried if case.allowed.reason == MALFORMED}
    assert malformed == names, "what does not parse"


def moment(seconds: int, nanos: int = 0) -> bytes:
    return Timestamp(seconds=seconds, nanos=nanos).SerializeToString()


@pytest.mark.parametrize(
    ("name", "possible", "refused"),
    [
        ("name", ["", " ", "x" * 256], ["a\0b", "a\nb", "a\x7fb", "a\x85b", "x" * 257]),
        ("cabin.name", ["", " ", "x" * 256], ["a\0b", "a\nb", "a\x7fb", "a\x85b", "x" * 257]),
        ("passenger_id", ["", "x" * 128], ["a\0b", "x" * 129, "é" * 64 + "x"]),
        ("command_id", [""], ["one", "0" * 31, "0" * 33, "g" * 32]),
        ("page_token", [""], ["*", "null", "a\0b"]),
        ("page_size", [0, 1000], [-1, 1001, MIN_INT32, MAX_INT32]),
        ("min_position", [0, MAX_INT64], [-1, MIN_INT64]),
        ("deck", [0], [99, -1, MAX_INT32, MIN_INT32]),
        ("cabin", [b""], []),
        ("with", [b""], []),
        ("at", [moment(0), moment(-1, 999_999_999)], [moment(1, -1), moment(MAX_INT64)]),
        ("cash", [0, -1, MIN_INT64, MAX_INT64], []),
        ("not_yet", [b""], []),
        ("age", [0, -1, MIN_INT64, MAX_INT64], []),
        ("numbers", [[], [MAX_INT64]], [list(range(1001))]),
        ("texts", [[], [""]], [["a\0b"], ["x" * 257], [str(number) for number in range(1001)]]),
        ("luggage", [{}, {"": 0}, {"": MIN_INT64}], [{"a\0b": 0}]),
        ("a_bool", [False, True], []),
        ("some_bytes", [b"", bytes(32), bytes(1000)], []),
        ("a_double", [0.0, -1.0, inf, -inf], []),
        ("a_float", [0.0, -1.0, inf, -inf], []),
        ("an_int32", [0, -1, MIN_INT32, MAX_INT32], []),
        ("an_int64", [0, -1, MIN_INT64, MAX_INT64], []),
        ("a_uint32", [0, 2**32 - 1], []),
        ("a_uint64", [0, 2**64 - 1], []),
        ("a_sint32", [0, -1, MIN_INT32, MAX_INT32], []),
        ("a_sint64", [0, -1, MIN_INT64, MAX_INT64], []),
        ("a_fixed32", [0, 2**32 - 1], []),
        ("a_fixed64", [0, 2**64 - 1], []),
        ("an_sfixed32", [0, -1, MIN_INT32, MAX_INT32], []),
        ("an_sfixed64", [0, -1, MIN_INT64, MAX_INT64], []),
    ],
)
def test_a_new_field_has_the_bad_values_of_its_kind(
    made_up: Descriptor,
    tried: list[Case],
    name: str,
    possible: list[Any],
    refused: list[Any],
) -> None:
    found = values(made_up, tried, name)
    assert [each for each in possible if (None, each) not in found] == []
    assert [each for each in refused if (INVALID, each) not in found] == []


def test_a_new_any_is_of_no_type_and_of_a_type_whose_bytes_do_not_parse(
    made_up: Descriptor, tried: list[Case]
) -> None:
    packed = [
        (reason, AnyMessage.FromString(content))
        for reason, content in values(made_up, tried, "packed")
    ]
    types = {value.type_url for reason, value in packed if reason == NO_COMMAND}
    assert {"", "one"} < types
    broken = [value for reason, value in packed if reason == MALFORMED]
    assert broken
    commands = {method.input_type.full_name: method.input_type for method in COMMANDS}
    for value in broken:
        assert not parses(commands[value.type_url.rpartition("/")[2]], value.value)


def test_each_of_a_new_oneof_is_tried_without_the_others(
    made_up: Descriptor, tried: list[Case]
) -> None:
    for case in tried:
        if case.field in {"cash", "not_yet"} and parses(made_up, case.request):
            message: Any = message_factory.GetMessageClass(made_up).FromString(case.request)
            assert message.WhichOneof("paid") in {case.field, None}, case


def test_what_a_new_query_waits_for_may_be_late(tried: list[Case]) -> None:
    assert {case.field for case in tried if case.allowed.may_wait} == {"min_position"}


def test_random_messages_fill_every_new_field(made_up: Descriptor) -> None:
    filled: set[str] = set()

    @settings(
        max_examples=100,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(message=messages(made_up))
    def draw(message: Message) -> None:
        filled.update(field.name for field, _ in message.ListFields())

    draw()
    assert filled == {*made_up.fields_by_name} - {"with"}, "all but itself"
