"""The skeleton that every aggregate shares: its messages, and their fold."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar, cast

from google.protobuf import descriptor_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from tidemark.v1.event_pb2 import RecordedEvent

TYPE_URL_PREFIX = "type.googleapis.com/"

State = TypeVar("State", bound=Message)


class CorruptHistory(Exception):
    """The events of an aggregate cannot have come from Tidemark in this order."""


class UnknownEvent(Exception):
    """An event of a type that this program does not have, most likely because it is older."""


@dataclass(frozen=True)
class Aggregate(Generic[State]):
    """One kind of aggregate.

    Args:
        name: its aggregate_type in the log, stored for ever, for example "ship". The state has a
            field `<name>_id`, `version`, and may have `created_at` and `updated_at`: the fold sets
            them from the events' envelopes.
        state: the message that holds its state.
        created_by: the event that every history begins with.
        events: all its events, that one included.
        evolve: records one event in the state. It never judges: what is in the log has happened.
        erased_by: the event after which what is personal of it can be read by nobody; None: it has
            nothing personal.
        evolve_version: to be raised when `evolve` changes what it makes of an old event; snapshots
            taken before are then ignored.
    """

    name: str
    state: type[State]
    created_by: type[Message]
    events: tuple[type[Message], ...]
    evolve: Callable[[State, Any], None]
    erased_by: type[Message] | None = None
    evolve_version: int = 1
    _event_by_url: dict[str, type[Message]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_url = {TYPE_URL_PREFIX + event.DESCRIPTOR.full_name: event for event in self.events}
        object.__setattr__(self, "_event_by_url", by_url)

    @property
    def id_field(self) -> str:
        """The field of the state, of its commands and of its queries that names the aggregate."""
        return f"{self.name}_id"

    @cached_property
    def event_types(self) -> frozenset[str]:
        """Full names of its event messages."""
        return frozenset(event.DESCRIPTOR.full_name for event in self.events)

    @cached_property
    def snapshot_schema(self) -> bytes:
        """Digest of what a stored state depends on: its messages and `evolve_version`."""
        digest = hashlib.sha256(str(self.evolve_version).encode())
        for descriptor in _with_nested(self.state.DESCRIPTOR, {}).values():
            definition = descriptor_pb2.DescriptorProto()
            descriptor.CopyToProto(definition)
            digest.update(definition.SerializeToString(deterministic=True))
        return digest.digest()

    def unpack(self, event: RecordedEvent) -> Message:
        """The payload of one of its events.

        Raises:
            UnknownEvent: the payload is of a type that is not among its events.
            CorruptHistory: it is not of the type that it says.
        """
        payload = self.unpack_known(event)
        if payload is None:
            raise UnknownEvent(f"{event.payload.type_url} at position {event.position}")
        return payload

    def unpack_known(self, event: RecordedEvent) -> Message | None:
        """The same, or None for a payload of another type.

        Raises:
            CorruptHistory: the payload is not of the type that it says.
        """
        message = self._event_by_url.get(event.payload.type_url)
        try:
            return None if message is None else message.FromString(event.payload.value)
        except DecodeError as error:
            raise CorruptHistory(
                f"The {event.payload.type_url} at position {event.position} does not parse"
            ) from error

    def fold(self, state: State | None, event: RecordedEvent) -> State:
        """Records the next event in the state, and returns it.

        Args:
            state: changed in place; None before the first event.
            event: the one that follows.

        Raises:
            CorruptHistory: it is not the event that follows.
            UnknownEvent: its payload is of a type that is not among these events: who decides must
                not decide on a state that lacks something.
        """
        return self.fold_known(state, event, self.unpack(event))

    def fold_known(
        self, state: State | None, event: RecordedEvent, payload: Message | None
    ) -> State:
        """The same for whoever only reads, and has unpacked what is known.

        Args:
            state: changed in place; None before the first event.
            event: the one that follows.
            payload: of `unpack_known`; None: only the version moves on.

        Raises:
            CorruptHistory: it is not the event that follows.
        """
        before: Any = state
        version = 0 if before is None else before.version
        if event.version != version + 1:
            raise CorruptHistory(
                f"Version {event.version} of {self.name} {event.aggregate_id!r} follows version "
                f"{version}"
            )
        after: Any = self.apply(state, event.aggregate_id, payload)
        if before is None and self._has_created_at:
            after.created_at.CopyFrom(event.occurred_at)
        if self._has_updated_at:
            after.updated_at.CopyFrom(event.occurred_at)
        return cast("State", after)

    def apply(self, state: State | None, aggregate_id: str, payload: Message | None) -> State:
        """Records a payload in the state as its next version, and returns it.

        What `fold` does of an event that has no time yet, because it is only about to be committed.

        Args:
            state: changed in place; None before the first event.
            aggregate_id: whose state it is.
            payload: None for one that is not known here: only the version moves on.

        Raises:
            CorruptHistory: the first event is not the creation.
        """
        applied: Any = state
        if applied is None:
            if not isinstance(payload, self.created_by):
                raise CorruptHistory(
                    f"The history of {self.name} {aggregate_id!r} begins with "
                    f"{type(payload).__name__}, not with {self.created_by.__name__}"
                )
            applied = self.state(**{self.id_field: aggregate_id})
        if payload is not None:
            self.evolve(applied, payload)
        applied.version += 1
        return cast("State", applied)

    @cached_property
    def _has_created_at(self) -> bool:
        return "created_at" in self.state.DESCRIPTOR.fields_by_name

    @cached_property
    def _has_updated_at(self) -> bool:
        return "updated_at" in self.state.DESCRIPTOR.fields_by_name


def pack(message: Message) -> AnyMessage:
    """The message as an Any, serialized so that equal messages are equal bytes."""
    packed = AnyMessage()
    pack_into(packed, message)
    return packed


def pack_into(packed: AnyMessage, message: Message) -> None:
    """The same where the Any is part of another message: to put it there later copies it."""
    packed.type_url = TYPE_URL_PREFIX + message.DESCRIPTOR.full_name
    packed.value = message.SerializeToString(deterministic=True)


def _with_nested(message: Any, found: dict[str, Descriptor]) -> dict[str, Descriptor]:
    if message.full_name not in found:
        found[message.full_name] = message
        for each in message.fields:
            if each.message_type is not None:
                _with_nested(each.message_type, found)
    return found
