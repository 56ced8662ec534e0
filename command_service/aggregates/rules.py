"""The skeleton of an aggregate's rules: its commands, their shape, and what decides them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from shared.aggregates.aggregate import Aggregate
from shared.checks import Check

State = TypeVar("State", bound=Message)


@dataclass(frozen=True)
class Rules(Generic[State]):
    """The write side of one kind of aggregate.

    Args:
        aggregate: the kind.
        service: the gRPC service whose every RPC takes one of these commands.
        commands: each command with what its shape has to satisfy, whatever the state.
        decide: takes the state (None: does not exist) and a command of the right shape, without its
            context; returns the events that the command causes, at least one, or raises the refusal
            as a `TidemarkError`. It changes nothing. What is personal in the state is encrypted: it
            decides without, and what is personal in events comes from commands alone.
        erase: the command that causes the aggregate's `erased_by`; None: there is none. It is
            answered when the key is destroyed.
    """

    aggregate: Aggregate[State]
    service: ServiceDescriptor
    commands: Mapping[type[Message], Sequence[Check]]
    decide: Callable[[State | None, Any], Sequence[Message]]
    erase: type[Message] | None = None
