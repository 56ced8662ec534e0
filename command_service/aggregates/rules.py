"""The skeleton of an aggregate's rules: its commands, their shape, and what decides them."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from shared.aggregates.aggregate import Aggregate
from shared.errors import FieldViolation

State = TypeVar("State", bound=Message)

MAX_ID_BYTES = 128
MAX_TEXT_CHARACTERS = 256

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Check = Callable[[Any], Iterator[FieldViolation]]
"""Takes a command and names what is wrong with its shape."""


@dataclass(frozen=True)
class Rules(Generic[State]):
    """The write side of one kind of aggregate.

    Args:
        aggregate: the kind.
        service: the gRPC service whose every RPC takes one of these commands.
        commands: each command with what its shape has to satisfy, whatever the state.
        decide: takes the state (None: does not exist) and a command of the right shape; returns the
            events that the command causes, at least one, or raises the refusal as a
            `TidemarkError`. It changes nothing.
    """

    aggregate: Aggregate[State]
    service: ServiceDescriptor
    commands: Mapping[type[Message], Sequence[Check]]
    decide: Callable[[State | None, Any], Sequence[Message]]


def identifier(field: str) -> Check:
    """An id of at most 128 bytes of UTF-8, without control characters."""

    def check(command: Any) -> Iterator[FieldViolation]:
        if not getattr(command, field):
            yield FieldViolation(field, "must not be empty")
        yield from new_identifier(field)(command)

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
