"""From a message on the wire to a command that can be executed."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import uuid_utils
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from command_service.aggregates.rules import Rules
from shared.checks import MAX_TEXT_CHARACTERS, id_violations
from shared.errors import FieldViolation, InvalidArgument, InvalidFields
from shared.log.log import AggregateKey, CommandKey
from tidemark.v1.command_pb2 import CommandContext


@dataclass(slots=True, eq=False)
class Command:
    """A command of the right shape.

    Args:
        rules: what decides it.
        key: the aggregate it is for.
        message: the command itself.
        command_id: the client's in canonical form, or one made up.
        fingerprint: tells it from another command under the same id; empty if the id is made up.
        correlation_id: for its events.
        expected_version: the version it is to be executed at; None: any.
        validate_only: decide, but record nothing.
        actor: who sent it.
    """

    rules: Rules[Any]
    key: AggregateKey
    message: Message
    command_id: str
    fingerprint: bytes
    correlation_id: str
    expected_version: int | None
    validate_only: bool
    actor: str = ""

    @property
    def receipt_key(self) -> CommandKey | None:
        """Under which its receipt is kept; None: it cannot be repeated."""
        if not self.fingerprint or self.validate_only:
            return None
        return CommandKey(self.key.tenant_id, self.command_id)


class CommandTypes:
    """Every command that this service takes, by its message.

    Raises:
        LookupError: an RPC's request is no command of the rules for its service.
    """

    def __init__(self, all_rules: Sequence[Rules[Any]]) -> None:
        self._rules: dict[type[Message], Rules[Any]] = {}
        for rules in all_rules:
            self._rules |= dict.fromkeys(rules.commands, rules)
        self._types = {each.DESCRIPTOR.full_name: each for each in self._rules}
        for rules in all_rules:
            for method in rules.service.methods:
                if self._types.get(method.input_type.full_name) not in rules.commands:
                    raise LookupError(
                        f"No rule decides {method.input_type.full_name}, "
                        f"the request of {method.full_name}"
                    )

    def unpack(self, packed: AnyMessage) -> Message:
        """The command in an Any.

        Raises:
            InvalidArgument: UNKNOWN_COMMAND or MALFORMED_REQUEST.
        """
        command_type = self._types.get(packed.type_url.rpartition("/")[2])
        if command_type is None:
            name = packed.type_url[:MAX_TEXT_CHARACTERS]
            raise InvalidArgument("UNKNOWN_COMMAND", f"{name!r} is no command")
        try:
            return command_type.FromString(packed.value)
        except DecodeError as error:
            name = command_type.DESCRIPTOR.full_name
            raise InvalidArgument("MALFORMED_REQUEST", f"Not a valid {name}") from error

    def read(self, message: Message, tenant_id: str, actor: str = "") -> Command:
        """Checks the shape of a command and completes it.

        Raises:
            InvalidFields: everything that is wrong with it.
        """
        rules = self._rules[type(message)]
        # What is not known here would only take room while the command waits.
        message.DiscardUnknownFields()
        violations = [
            violation for check in rules.commands[type(message)] for violation in check(message)
        ]
        context: CommandContext = message.context  # type: ignore[attr-defined]  # every command's
        given_id = _canonical(context.command_id)
        violations += _context_violations(context, given_id)
        if violations or given_id is None:
            raise InvalidFields(*violations)
        command_id = given_id or str(uuid_utils.uuid7())
        aggregate_id = getattr(message, rules.aggregate.id_field) or str(uuid_utils.uuid7())
        has_expected_version = context.HasField("expected_version")
        return Command(
            rules=rules,
            key=AggregateKey(tenant_id, rules.aggregate.name, aggregate_id),
            message=message,
            command_id=command_id,
            fingerprint=_fingerprint(message) if given_id else b"",
            correlation_id=context.correlation_id or command_id,
            expected_version=context.expected_version if has_expected_version else None,
            validate_only=context.validate_only,
            actor=actor,
        )


def _canonical(command_id: str) -> str | None:
    """The UUID in its usual spelling; empty stays empty; None: it is none."""
    if not command_id:
        return ""
    try:
        return str(uuid_utils.UUID(command_id))
    except ValueError:
        return None


def _context_violations(
    context: CommandContext, command_id: str | None
) -> Iterator[FieldViolation]:
    if command_id is None:
        yield FieldViolation("context.command_id", "must be a UUID")
    yield from id_violations("context.correlation_id", context.correlation_id)
    if context.expected_version < 0:
        yield FieldViolation("context.expected_version", "must not be negative")


def _fingerprint(message: Message) -> bytes:
    content = type(message)()
    content.CopyFrom(message)
    content.ClearField("context")
    name = message.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + b"\0" + content.SerializeToString(deterministic=True)).digest()
