"""The wire format of protobuf, by hand: also what no library would write."""

VARINT = 0
FIXED64 = 1
DELIMITED = 2
START_GROUP = 3
END_GROUP = 4
FIXED32 = 5

UNKNOWN_NUMBER = 7919
"""Of a field that no message has."""


def varint(value: int) -> bytes:
    """A number; a negative one as its two's complement in 64 bits."""
    rest = value & 0xFFFF_FFFF_FFFF_FFFF
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


def key(number: int, wire_type: int) -> bytes:
    """What stands before a field's content."""
    return varint(number << 3 | wire_type)


def integer(number: int, value: int) -> bytes:
    """A field with a number in it."""
    return key(number, VARINT) + varint(value)


def delimited(number: int, content: bytes) -> bytes:
    """A field with bytes, a text or a message in it."""
    return key(number, DELIMITED) + varint(len(content)) + content


def groups(depth: int) -> bytes:
    """Groups in groups, in a field that no message has."""
    start, end = key(UNKNOWN_NUMBER, START_GROUP), key(UNKNOWN_NUMBER, END_GROUP)
    return start * depth + end * depth


UNKNOWN_FIELDS = {
    "an unknown number": integer(UNKNOWN_NUMBER, 2**64 - 1),
    "an unknown text": delimited(UNKNOWN_NUMBER, b"\xff\x00one"),
    "an unknown group": groups(1),
    "50 groups in each other": groups(50),
    "the last field number": integer(2**29 - 1, 1),
    "a reserved field number": integer(19_000, 1),
    # Parsers do not agree on it in a message that has no fields.
    "field number 0": b"\x00\x00",
}
"""Everybody has to skip them, or at least to say what is wrong."""

BROKEN = {
    "a wire type that is none": b"\x0e",
    "a key without an end": b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    "a number without an end": key(UNKNOWN_NUMBER, VARINT) + b"\xff" * 11,
    "less than it says": key(UNKNOWN_NUMBER, DELIMITED) + varint(1000) + b"one",
    "2 GiB that are not there": key(UNKNOWN_NUMBER, DELIMITED) + varint(2**31 - 1),
    "a negative length": key(UNKNOWN_NUMBER, DELIMITED) + varint(-1),
    "a group without an end": key(UNKNOWN_NUMBER, START_GROUP),
    "an end without a group": key(UNKNOWN_NUMBER, END_GROUP),
    "10,000 groups in each other": groups(10_000),
}
"""At the end of a message they make it none."""
