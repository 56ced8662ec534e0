"""What the log has of a command, given the keys."""

from collections.abc import Mapping

from command_service.command import Command
from shared.log.log import AggregateKey
from shared.personal.sealing import keyed_fingerprint
from tidemark.v1.event_pb2 import RecordedEvent


def recorded_fingerprint(
    command: Command, event: RecordedEvent, keys: Mapping[AggregateKey, bytes]
) -> bytes:
    """The command's fingerprint, as an event that it caused has to have it."""
    if not (command.is_personal and command.fingerprint):
        return command.fingerprint
    key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
    # Whoever never had one was not created by such a command.
    return keyed_fingerprint(command.fingerprint, keys[key]) if key in keys else b""
