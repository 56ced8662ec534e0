"""The skeleton of a projection: what it stores, and how events become that."""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from query_service.states import KEPT_EVERY, Columns, States, fold_each, schema_of
from shared.aggregates.aggregate import Aggregate
from tidemark.v1.event_pb2 import RecordedEvent

State = TypeVar("State", bound=Message)


@dataclass(frozen=True)
class Projection(Generic[State]):
    """The views of one kind of aggregate.

    Args:
        name: as operators call it; names its files.
        aggregate: whose events it is built from. The state of each is kept in the table `states`,
            with the columns tenant_id, aggregate_id and state.
        schema_version: to be raised whenever `columns` or `apply` make something else of the same
            events: it is then built anew. A change of the tables, the events, the state or
            KEPT_EVERY does that by itself.
        service: the gRPC service that answers from it.
        queries: makes what answers; see `shared.rpc.methods_of`.
        is_deleted: whether a state is the end of its aggregate, which is then there for the past
            and for those who watch, only.
        columns: what else `states` has, and how it follows from the state.
        schema: SQL that makes other tables, and indexes.
        apply: takes a batch of events, every tenant's, in log order; folds each, once, in `States`,
            and brings what follows from it into the other tables. It is called in a transaction,
            in a thread of its own.
    """

    name: str
    aggregate: Aggregate[State]
    schema_version: int
    service: ServiceDescriptor
    queries: Callable[[Any, Any], object]
    is_deleted: Callable[[State], bool] = lambda _state: False
    columns: Columns[State] = field(default_factory=dict)
    schema: str = ""
    apply: Callable[[sqlite3.Connection, Iterable[RecordedEvent], States[State]], None] = fold_each

    @property
    def whole_schema(self) -> str:
        """SQL that makes all its tables."""
        return schema_of(self.columns) + self.schema

    @cached_property
    def fingerprint(self) -> bytes:
        """Digest of what its tables depend on, as far as a program can tell."""
        digest = hashlib.sha256(self.aggregate.snapshot_schema)
        made = (self.whole_schema, str(self.schema_version), str(KEPT_EVERY))
        parts = [*sorted(self.aggregate.event_types), *made]
        digest.update("\0".join(parts).encode())
        return digest.digest()
