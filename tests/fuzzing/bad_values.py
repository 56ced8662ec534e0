"""What a field must not be, by its type and by what its name says that it is."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from query_service.pages import Cursor
from tests.fuzzing import wire
from tests.fuzzing.contract import COMMANDS, METHODS, is_leaf, is_map, tenant_of
from tests.fuzzing.valid import WORD, valid

INVALID = "INVALID_FIELD"
MALFORMED = "MALFORMED_REQUEST"
NO_COMMAND = "UNKNOWN_COMMAND"

MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1
MIN_INT32, MAX_INT32 = -(2**31), 2**31 - 1

BOUNDS = {
    "position": (0, MAX_INT64),
    "version": (0, MAX_INT64),
    "size": (0, 1000),
    "quantity": (1, 1_000_000_000),
    "balance": (0, MAX_INT64),
}
"""Of numbers whose name ends with the word. What others can be is for their rules to say."""

INTEGERS = sorted(
    {
        *(0, 1, -1, 2, 1000, 1001, 1_000_000_000, 1_000_000_001),
        *(MAX_INT32, MAX_INT32 + 1, MIN_INT32, MIN_INT32 - 1, 2**32, 2**53 + 1),
        *(MAX_INT64, MAX_INT64 - 1, MIN_INT64, MIN_INT64 + 1),
    }
)

TOO_LONG_FOR_AN_ID = ("x" * 129, "é" * 64 + "x", "🚢" * 33)
NEVER_TEXT = (
    *("\0", "a\0b", "a\tb", "a\nb", "a\x1b[31mb", "a\x7fb", "a\x85b"),
    *("x" * 257, "🚢" * 257, "x" * 100_000),
)
"""With a NUL or a control character, or over every limit: in no field a good text."""

SOMETIMES_TEXT = (
    *("", " ", "\u00a0\u2003\u3000", "*", "%", "_", "'", '"', "\\", "x' OR '1'='1", "%s%n{0}"),
    *("0", "-1", "null", "{}", "é", "e\u0301", "\u202eone", "\ufeffone", "\ufffe", "\U0010ffff"),
    *("x" * 128, "🚢" * 32, "x" * 256, "🚢" * 256),
)
"""Legal, and where it is not, the field's own rules have to say so."""

NO_UUID = ("one", "0" * 31, "0" * 33, "g" * 32, "00000000-0000-0000-0000-00000000000g")
NO_TYPE = ("submarine", "ShipDocked", "tidemark.v1.ShipSunk", "tidemark.v1.DockShip")
NO_UNICODE = (b"\xff", b"a\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80")

TIMES: tuple[tuple[int, int, str | None], ...] = (
    (0, 0, None),
    (-1, 999_999_999, None),
    (-62_135_596_800, 0, None),
    (253_402_300_799, 999_999_999, None),
    (-62_135_596_801, 0, INVALID),
    (253_402_300_800, 0, INVALID),
    (MIN_INT64, 0, INVALID),
    (MAX_INT64, 0, INVALID),
    (1, -1, INVALID),
    (1, 1_000_000_000, INVALID),
    (1, MIN_INT32, INVALID),
    (1, MAX_INT32, INVALID),
)
"""Seconds and nanos; the first moments are before every event, the years 1 and 9999 included."""

MAX_ELEMENTS = 1000
"""Of any list in a request."""


@dataclass(frozen=True)
class BadValue:
    """A field as it is written.

    Args:
        label: what is bad about it.
        record: the field as it stands in its message.
        reason: with which it has to be refused; None: it may also be accepted, or be wrong in this
            state only.
    """

    label: str
    record: bytes
    reason: str | None = None


def bad_values(field: FieldDescriptor, request: Descriptor) -> Iterator[BadValue]:
    """All that is tried in a field of a request."""
    yield BadValue("missing", b"")
    if is_map(field):
        yield from _maps(field)
        return
    yield from _values(field, request)
    yield BadValue("a number of 64 bits", wire.key(field.number, wire.FIXED64) + bytes(8))
    yield BadValue(
        "less than it says", wire.key(field.number, wire.DELIMITED) + b"\x05ab", MALFORMED
    )
    if field.is_repeated:
        yield from _lists(field)


def _values(field: FieldDescriptor, request: Descriptor) -> Iterator[BadValue]:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            yield from _texts(field, request)
            yield BadValue("a number", wire.integer(field.number, 1))
        case FieldDescriptor.TYPE_BYTES:
            yield from _bytes(field)
            yield BadValue("a number", wire.integer(field.number, 1))
        case FieldDescriptor.TYPE_MESSAGE:
            yield from _messages(field)
            yield BadValue("a number", wire.integer(field.number, 1))
        case FieldDescriptor.TYPE_ENUM:
            yield from _choices(field)
        case FieldDescriptor.TYPE_BOOL:
            for number in (0, 1, 2, -1):
                yield BadValue(str(number), wire.integer(field.number, number))
        case FieldDescriptor.TYPE_FLOAT | FieldDescriptor.TYPE_DOUBLE:
            for real in (0.0, -0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e-45, 3e38):
                yield BadValue(str(real), _real(field, real))
        case _:
            yield from _integers(field)


def _integers(field: FieldDescriptor) -> Iterator[BadValue]:
    least, most = BOUNDS.get(field.name.rpartition("_")[2], (MIN_INT64, MAX_INT64))
    is_narrow = field.cpp_type == FieldDescriptor.CPPTYPE_INT32
    for number in INTEGERS:
        # What does not fit is cut off by every parser, and may then be right.
        fits = not is_narrow or MIN_INT32 <= number <= MAX_INT32
        reason = INVALID if fits and not least <= number <= most else None
        yield BadValue(str(number), _integer(field, number), reason)
    yield BadValue("a text", wire.delimited(field.number, b"one"))
    yield BadValue("no end", wire.key(field.number, wire.VARINT) + b"\xff" * 11, MALFORMED)


def _choices(field: FieldDescriptor) -> Iterator[BadValue]:
    for number in (0, 2**32, 2**63):
        yield BadValue(str(number), wire.integer(field.number, number))
    for number in (99, -1, MAX_INT32, MIN_INT32):
        yield BadValue(f"{number}, which is unknown", wire.integer(field.number, number), INVALID)
    yield BadValue("a text", wire.delimited(field.number, b"one"))


def _texts(field: FieldDescriptor, request: Descriptor) -> Iterator[BadValue]:
    never: list[str] = list(NEVER_TEXT)
    sometimes: list[str] = list(SOMETIMES_TEXT)
    if field.name.endswith(("_id", "_ids")):
        never += TOO_LONG_FOR_AN_ID
    match field.name:
        case "command_id":
            never += [*NO_UUID, *filter(None, sometimes)]
            sometimes = ["", f"{{{'1' * 32}}}", f"urn:uuid:{'1' * 32}", "1" * 32]
        case "page_token":
            never += [*filter(None, sometimes), *_tokens(request)]
            sometimes = [""]
        case "aggregate_type" | "aggregate_types" | "event_types":
            never += [*sometimes, *NO_TYPE]
            sometimes = []
    for text in never:
        yield BadValue(shown(text), wire.delimited(field.number, text.encode()), INVALID)
    for text in sometimes:
        yield BadValue(shown(text), wire.delimited(field.number, text.encode()))
    for raw in NO_UNICODE:
        yield BadValue(f"{raw!r}, which is no text", wire.delimited(field.number, raw), MALFORMED)


def _tokens(request: Descriptor) -> Iterator[str]:
    """Page tokens that are well made, but of another tenant, of another list, or nearly."""
    foreign = Cursor(valid(request), f"not {tenant_of(request)}", "").token(WORD)
    yield from (foreign, foreign[:-1], foreign.swapcase())
    for method in METHODS:
        other = method.input_type
        if "page_token" in other.fields_by_name and other is not request:
            yield Cursor(valid(other), tenant_of(request), "").token(WORD)


def _bytes(field: FieldDescriptor) -> Iterator[BadValue]:
    is_digest = field.name.endswith("digest")
    for content in (b"", b"\0", b"\xff" * 31, bytes(32), b"\xff" * 32, bytes(33), bytes(1000)):
        reason = INVALID if is_digest and content and len(content) != 32 else None
        yield BadValue(
            f"{len(content)} bytes, {content[:1]!r}", wire.delimited(field.number, content), reason
        )


def _messages(field: FieldDescriptor) -> Iterator[BadValue]:
    assert field.message_type is not None
    for label, content in wire.UNKNOWN_FIELDS.items():
        yield BadValue(label, wire.delimited(field.number, content))
    for label, content in wire.BROKEN.items():
        yield BadValue(label, wire.delimited(field.number, content), MALFORMED)
    yield BadValue("empty", wire.delimited(field.number, b""))
    match field.message_type.full_name:
        case "google.protobuf.Timestamp" | "google.protobuf.Duration":
            for seconds, nanos, reason in TIMES:
                content = wire.integer(1, seconds) + wire.integer(2, nanos)
                record = wire.delimited(field.number, content)
                yield BadValue(f"{seconds} s and {nanos} ns", record, reason)
        case "google.protobuf.Any":
            yield from _packed(field)


def _packed(field: FieldDescriptor) -> Iterator[BadValue]:
    known = COMMANDS[0].input_type.full_name
    no_commands = (
        *("", "/", "type.googleapis.com/", "one", known + "X", "type.googleapis.com/" + known[:-1]),
        *(known + "/", known + "\0", "x" * 100_000, "type.googleapis.com/google.protobuf.Any"),
        *(f"type.googleapis.com/{COMMANDS[0].output_type.full_name}", "file:///etc/passwd"),
    )
    for type_url in no_commands:
        packed = AnyMessage(type_url=type_url, value=b"\xff").SerializeToString()
        record = wire.delimited(field.number, packed)
        yield BadValue(f"of type {shown(type_url)}", record, NO_COMMAND)
    for label, broken in {**wire.BROKEN, "no text": b"\x0a\x01\xff"}.items():
        packed = AnyMessage(type_url="x/" + known, value=broken).SerializeToString()
        yield BadValue(f"in it {label}", wire.delimited(field.number, packed), MALFORMED)


def _lists(field: FieldDescriptor) -> Iterator[BadValue]:
    for count in (MAX_ELEMENTS + 1, 50 * MAX_ELEMENTS):
        elements = (_element(field, number) for number in range(count))
        yield BadValue(f"{count} of them", b"".join(elements), INVALID)


def _element(field: FieldDescriptor, number: int) -> bytes:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return wire.delimited(field.number, str(number).encode())
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return wire.delimited(field.number, b"")
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return _real(field, number)
        case _:
            return _integer(field, number)


def _maps(field: FieldDescriptor) -> Iterator[BadValue]:
    """Bad entries, and bad keys and values in them."""
    assert field.message_type is not None
    yield BadValue("an entry without a key and a value", wire.delimited(field.number, b""))
    yield BadValue("a number", wire.integer(field.number, 1))
    for part in field.message_type.fields:
        for bad in bad_values(part, field.message_type):
            record = wire.delimited(field.number, bad.record)
            reason = bad.reason if is_leaf(part) else None
            yield BadValue(f"{part.name} {bad.label}", record, reason)
    yield from _lists(field)


def _integer(field: FieldDescriptor, number: int) -> bytes:
    match field.type:
        case FieldDescriptor.TYPE_FIXED64 | FieldDescriptor.TYPE_SFIXED64:
            content = (number % 2**64).to_bytes(8, "little")
            return wire.key(field.number, wire.FIXED64) + content
        case FieldDescriptor.TYPE_FIXED32 | FieldDescriptor.TYPE_SFIXED32:
            content = (number % 2**32).to_bytes(4, "little")
            return wire.key(field.number, wire.FIXED32) + content
        case FieldDescriptor.TYPE_SINT32 | FieldDescriptor.TYPE_SINT64:
            return wire.integer(field.number, number << 1 ^ number >> 63)
        case _:
            return wire.integer(field.number, number)


def _real(field: FieldDescriptor, number: float) -> bytes:
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return wire.key(field.number, wire.FIXED64) + struct.pack("<d", number)
    return wire.key(field.number, wire.FIXED32) + struct.pack("<f", number)


def shown(text: str) -> str:
    """A text, long ones in short."""
    return ascii(text) if len(text) <= 40 else f"{text[:2]!a}, {len(text)} characters"
