"""What the shape of a request has to satisfy, whatever the state."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from shared.errors import FieldViolation, InvalidFields, invalid_field

MAX_ID_BYTES = 128
MAX_TEXT_CHARACTERS = 256

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799
"""Of the years 1 and 9999: all that a protobuf Timestamp can say."""

Check = Callable[[Any], list[FieldViolation]]
"""Takes a request and names what is wrong with it."""


def check(request: Any, *checks: Check) -> None:
    """Applies the checks.

    Raises:
        InvalidFields: everything that is wrong.
    """
    if violations := violations_of(request, checks):
        raise InvalidFields(*violations)


def violations_of(request: Any, checks: Iterable[Check]) -> list[FieldViolation]:
    """Everything that is wrong with a request."""
    violations: list[FieldViolation] = []
    for each in checks:
        violations += each(request)
    return violations


def identifier(field: str) -> Check:
    """An id of at most 128 bytes of UTF-8, without control characters."""

    def check(command: Any) -> list[FieldViolation]:
        value = getattr(command, field)
        if not value:
            return [FieldViolation(field, "must not be empty")]
        return id_violations(field, value)

    return check


def new_identifier(field: str) -> Check:
    """The same, or empty for the service to make one up."""

    def check(command: Any) -> list[FieldViolation]:
        return id_violations(field, getattr(command, field))

    return check


def text(field: str) -> Check:
    """Text of 1 to 256 characters, not only blanks, without control characters."""

    def check(command: Any) -> list[FieldViolation]:
        violations = []
        value = getattr(command, field)
        if not value.strip():
            violations.append(FieldViolation(field, "must not be empty"))
        if len(value) > MAX_TEXT_CHARACTERS:
            too_long = f"must have at most {MAX_TEXT_CHARACTERS} characters"
            violations.append(FieldViolation(field, too_long))
        if _has_control_characters(value):
            violations.append(FieldViolation(field, "must not contain control characters"))
        return violations

    return check


def between(field: str, least: int, most: int) -> Check:
    """A number in bounds, both included."""

    def check(command: Any) -> list[FieldViolation]:
        if least <= getattr(command, field) <= most:
            return []
        return [FieldViolation(field, f"must be from {least} to {most}")]

    return check


def not_zero(field: str) -> Check:
    """A number other than 0."""

    def check(command: Any) -> list[FieldViolation]:
        if getattr(command, field) != 0:
            return []
        return [FieldViolation(field, "must not be 0")]

    return check


def id_violations(field: str, value: str) -> list[FieldViolation]:
    """What is wrong with a text that is used as an id; empty is not."""
    violations = []
    if len(value.encode()) > MAX_ID_BYTES:
        violations.append(FieldViolation(field, f"must have at most {MAX_ID_BYTES} bytes"))
    if _has_control_characters(value):
        violations.append(FieldViolation(field, "must not contain control characters"))
    return violations


def at_least(field: str, least: int) -> Check:
    """A number that is not too small."""

    def check(request: Any) -> list[FieldViolation]:
        if getattr(request, field) >= least:
            return []
        return [FieldViolation(field, f"must be at least {least}")]

    return check


def microseconds(field: str, moment: Timestamp) -> int:
    """The moment in whole microseconds since 1970, rounded down.

    Raises:
        InvalidFields: it is no valid timestamp.
    """
    if not (_FIRST_SECOND <= moment.seconds <= _LAST_SECOND and 0 <= moment.nanos < 1_000_000_000):
        raise invalid_field(field, "must be a timestamp of the years 1 to 9999")
    return moment.seconds * 1_000_000 + moment.nanos // 1000


def _has_control_characters(value: str) -> bool:
    # What is printable has none; of the rest some, such as wide blanks, are no control characters.
    return not value.isprintable() and _CONTROL_CHARACTER.search(value) is not None
