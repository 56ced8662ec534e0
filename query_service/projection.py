"""The skeleton of a projection: what it stores, and how events become that."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from shared.aggregates.aggregate import Aggregate
from shared.log.log import AggregateKey
from tidemark.v1.event_pb2 import RecordedEvent

State = TypeVar("State", bound=Message)


@dataclass(frozen=True)
class Projection(Generic[State]):
    """The views of one kind of aggregate.

    Args:
        name: as operators call it; names its files.
        aggregate: whose events it is built from; it gets every tenant's, in log order.
        schema_version: to be raised with every change of what it stores: it is then built anew.
        schema: SQL that makes its tables.
        apply: brings a batch of events into the tables, and returns the aggregates that it touched.
            It is called in a transaction, in a thread of its own.
        service: the gRPC service that answers from it.
        queries: makes what answers; see `shared.rpc.methods_of`.
    """

    name: str
    aggregate: Aggregate[State]
    schema_version: int
    schema: str
    apply: Callable[[sqlite3.Connection, Sequence[RecordedEvent]], set[AggregateKey]]
    service: ServiceDescriptor
    queries: Callable[[Any, Any], object]


class States(Generic[State]):
    """The aggregates of one batch: read when first met, folded in memory, written once.

    Args:
        db: has `table`, with the columns tenant_id, `<aggregate>_id` and state.
        aggregate: their kind.
        table: where their states are.
    """

    def __init__(self, db: sqlite3.Connection, aggregate: Aggregate[State], table: str) -> None:
        self._db = db
        self._aggregate = aggregate
        self._select = f"SELECT state FROM {table} WHERE tenant_id = ? AND {aggregate.id_field} = ?"  # noqa: S608  # names of ours
        self.states: dict[AggregateKey, State] = {}

    def get(self, event: RecordedEvent) -> State | None:
        """The state that the event meets; to be used before the event is folded."""
        key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
        state = self.states.get(key)
        if state is None:
            found = self._db.execute(self._select, (event.tenant_id, event.aggregate_id)).fetchone()
            if found is None:
                return None
            self.states[key] = state = self._aggregate.state.FromString(found[0])
        return state

    def fold(self, event: RecordedEvent) -> State:
        """The state after the event; one of an unknown type only moves the version on."""
        key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
        state = self._aggregate.fold(self.get(event), event, ignore_unknown=True)
        self.states[key] = state
        return state
