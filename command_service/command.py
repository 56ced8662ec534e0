"""From a message on the wire to a command that can be executed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import uuid_utils
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from command_service.aggregates.rules import Rules
from shared.checks import MAX_TEXT_CHARACTERS, Check, id_violations, violations_of
from shared.errors import FieldViolation, InvalidArgument, InvalidFields
from shared.log.log import AggregateKey, CommandKey
from shared.personal.fields import personal_fields
from shared.telemetry import tracing
from shared.telemetry.metrics import COMMAND_SECONDS
from tidemark.v1.command_pb2 import CommandContext


@dataclass(slots=True, eq=False)
class Command:
    """A command of the right shape.

    Args:
        rules: what decides it.
        key: the aggregate it is for.
        message: the command itself, without its context.
        command_id: the client's in canonical form, or one made up.
        fingerprint: tells it from another command under the same id; empty if the id is made up.
        correlation_id: for its events.
        expected_version: the version it is to be executed at; None: any.
        validate_only: decide, but record nothing.
        receipt_key: under which its receipt is kept; None: it cannot be repeated.
        actor: who sent it.
        traceparent: the trace of the call that sent it; empty: none.
        is_personal: whether it has personal fields.
        erases: whether it is answered only when the aggregate's key is destroyed.
    """

    rules: Rules[Any]
    key: AggregateKey
    message: Message
    command_id: str
    fingerprint: bytes
    correlation_id: str
    expected_version: int | None
    validate_only: bool
    receipt_key: CommandKey | None
    actor: str
    traceparent: str
    is_personal: bool
    erases: bool


class _CommandType(NamedTuple):
    rules: Rules[Any]
    checks: Sequence[Check]
    id_field: str
    name: str
    is_personal: bool
    erases: bool


class CommandTypes:
    """Every command that this service takes, by its message.

    Raises:
        LookupError: an RPC's request is no command of the rules for its service.
        TypeError: what is personal of an aggregate could not be erased.
    """

    def __init__(self, all_rules: Sequence[Rules[Any]]) -> None:
        self._types = {
            message: _CommandType(
                rules,
                checks,
                rules.aggregate.id_field,
                message.DESCRIPTOR.full_name,
                bool(personal_fields(message)),
                message is rules.erase,
            )
            for rules in all_rules
            for message, checks in rules.commands.items()
        }
        self._messages = {each.name: message for message, each in self._types.items()}
        for rules in all_rules:
            _check_personal(rules)
            for method in rules.service.methods:
                if self._messages.get(method.input_type.full_name) not in rules.commands:
                    raise LookupError(
                        f"No rule decides {method.input_type.full_name}, "
                        f"the request of {method.full_name}"
                    )

    def unpack(self, packed: AnyMessage) -> Message:
        """The command in an Any.

        Raises:
            InvalidArgument: UNKNOWN_COMMAND or MALFORMED_REQUEST.
        """
        message = self._messages.get(packed.type_url.rpartition("/")[2])
        if message is None:
            name = packed.type_url[:MAX_TEXT_CHARACTERS]
            raise InvalidArgument("UNKNOWN_COMMAND", f"{name!r} is no command")
        try:
            return message.FromString(packed.value)
        except DecodeError as error:
            name = message.DESCRIPTOR.full_name
            raise InvalidArgument("MALFORMED_REQUEST", f"Not a valid {name}") from error

    def read(self, message: Message, tenant_id: str, actor: str = "") -> Command:
        """Checks the shape of a command and completes it.

        Raises:
            InvalidFields: everything that is wrong with it.
        """
        rules, checks, id_field, name, is_personal, erases = self._types[type(message)]
        violations = violations_of(message, checks)
        context: CommandContext = message.context  # type: ignore[attr-defined]  # every command's
        given_id = _canonical(context.command_id)
        violations += _context_violations(context, given_id)
        if violations or given_id is None:
            error = InvalidFields(*violations)
            COMMAND_SECONDS.labels(name, error.reason).observe(0.0)
            raise error
        command_id = given_id or str(uuid_utils.uuid7())
        correlation_id = context.correlation_id or command_id
        is_pinned = context.HasField("expected_version")
        expected_version = context.expected_version if is_pinned else None
        validate_only = context.validate_only
        # What is not needed any more, or not known here, would only take room while it waits.
        message.ClearField("context")
        message.DiscardUnknownFields()
        fingerprint = _fingerprint(name, message) if given_id else b""
        receipt_key = CommandKey(tenant_id, given_id) if given_id and not validate_only else None
        aggregate_id = getattr(message, id_field) or str(uuid_utils.uuid7())
        key = AggregateKey(tenant_id, rules.aggregate.name, aggregate_id)
        # By position: with so many names the call alone would take a quarter of the reading.
        return Command(
            rules,
            key,
            message,
            command_id,
            fingerprint,
            correlation_id,
            expected_version,
            validate_only,
            receipt_key,
            actor,
            tracing.tracer.current(),
            is_personal,
            erases,
        )


def _check_personal(rules: Rules[Any]) -> None:
    """Looks whether what is personal of an aggregate can be erased and, in its state, be read.

    Raises:
        TypeError: it cannot.
    """
    aggregate = rules.aggregate
    recorded = {name for event in aggregate.events for name in personal_fields(event)}
    if recorded and (aggregate.erased_by is None or rules.erase is None):
        raise TypeError(f"What is personal of {aggregate.name} cannot be erased")
    state = set(aggregate.state.DESCRIPTOR.fields_by_name)
    if (recorded & state) != set(personal_fields(aggregate.state)):
        raise TypeError(f"The state of {aggregate.name} has other personal fields than its events")


def _canonical(command_id: str) -> str | None:
    """The UUID in its usual spelling; empty stays empty; None: it is none."""
    if not command_id:
        return ""
    try:
        return str(uuid_utils.UUID(command_id))
    except ValueError:
        return None


def _context_violations(context: CommandContext, command_id: str | None) -> list[FieldViolation]:
    violations = id_violations("context.correlation_id", context.correlation_id)
    if command_id is None:
        violations.insert(0, FieldViolation("context.command_id", "must be a UUID"))
    if context.expected_version < 0:
        violations.append(FieldViolation("context.expected_version", "must not be negative"))
    return violations


def _fingerprint(name: str, content: Message) -> bytes:
    serialized = content.SerializeToString(deterministic=True)
    return hashlib.sha256(name.encode() + b"\0" + serialized).digest()
