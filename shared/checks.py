"""What the shape of a request has to satisfy, whatever the state."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from shared.errors import FieldViolation, InvalidFields, invalid_field

MAX_ID_BYTES = 128
MAX_TEXT_CHARACTERS = 256

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799
"""Of the years 1 and 9999: all that a protobuf Timestamp can say."""

Check = Callable[[Any], Iterator[FieldViolation]]
"""Takes a request and names what is wrong with it."""


def check(request: Any, *checks: Check) -> None:
    """Applies the checks.

    Raises:
        InvalidFields: everything that is wrong.
    """
    violations = [violation for each in checks for violation in each(request)]
    if violations:
        raise InvalidFields(*violations)


def identifier(field: str) -> Check:
    """An id of at most 128 bytes of UTF-8, without control characters."""

    def check(command: Any) -> Iterator[FieldViolation]:
        value = getattr(command, field)
        if not value:
            yield FieldViolation(field, "must not be empty")
        yield from id_violations(field, value)

    return check


def new_identifier(field: str) -> Check:
    """The same, or empty for the service to make one up."""

    def check(command: Any) -> Iterator[FieldViolation]:
        yield from id_violations(field, getattr(command, field))

    return check


def text(field: str) -> Check:
    """Text of 1 to 256 characters, not only blanks, without control characters."""

    def check(command: Any) -> Iterator[FieldViolation]:
        value = getattr(command, field)
        if not value.strip():
            yield FieldViolation(field, "must not be empty")
        if len(value) > MAX_TEXT_CHARACTERS:
            yield FieldViolation(field, f"must have at most {MAX_TEXT_CHARACTERS} characters")
        if _CONTROL_CHARACTER.search(value):
            yield FieldViolation(field, "must not contain control characters")

    return check


def between(field: str, least: int, most: int) -> Check:
    """A number in bounds, both included."""

    def check(command: Any) -> Iterator[FieldViolation]:
        if not least <= getattr(command, field) <= most:
            yield FieldViolation(field, f"must be from {least} to {most}")

    return check


def not_zero(field: str) -> Check:
    """A number other than 0."""

    def check(command: Any) -> Iterator[FieldViolation]:
        if getattr(command, field) == 0:
            yield FieldViolation(field, "must not be 0")

    return check


def id_violations(field: str, value: str) -> Iterator[FieldViolation]:
    """What is wrong with a text that is used as an id; empty is not."""
    if len(value.encode()) > MAX_ID_BYTES:
        yield FieldViolation(field, f"must have at most {MAX_ID_BYTES} bytes")
    if _CONTROL_CHARACTER.search(value):
        yield FieldViolation(field, "must not contain control characters")


def at_least(field: str, least: int) -> Check:
    """A number that is not too small."""

    def check(request: Any) -> Iterator[FieldViolation]:
        if getattr(request, field) < least:
            yield FieldViolation(field, f"must be at least {least}")

    return check


def microseconds(field: str, moment: Timestamp) -> int:
    """The moment in whole microseconds since 1970, rounded down.

    Raises:
        InvalidFields: it is no valid timestamp.
    """
    if not (_FIRST_SECOND <= moment.seconds <= _LAST_SECOND and 0 <= moment.nanos < 1_000_000_000):
        raise invalid_field(field, "must be a timestamp of the years 1 to 9999")
    return moment.seconds * 1_000_000 + moment.nanos // 1000
