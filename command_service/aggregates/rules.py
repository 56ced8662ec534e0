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
            as a `TidemarkError`. It changes nothing.
    """

    aggregate: Aggregate[State]
    service: ServiceDescriptor
    commands: Mapping[type[Message], Sequence[Check]]
    decide: Callable[[State | None, Any], Sequence[Message]]
