"""The states of a projection's aggregates: the table that every projection has, and past ones."""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from shared.aggregates.aggregate import Aggregate
from shared.log.log import AggregateKey
from shared.sqlite import SqlValue, insert
from tidemark.v1.event_pb2 import RecordedEvent

KEPT_EVERY = 50
"""Versions from one kept past state of an aggregate to the next."""

State = TypeVar("State", bound=Message)

Columns = Mapping[str, Callable[[State], int | str]]
"""What else is stored with each state, to select by, under which name."""


class KeptState(NamedTuple):
    """What an aggregate was once."""

    position: int
    """Of the event that led to it."""
    state: bytes


class States(Generic[State]):
    """The aggregates of one batch: read when first met, folded in memory, written once.

    Args:
        aggregate: their kind.
        read: finds the serialized state before the batch; None: there is none.
    """

    def __init__(
        self, aggregate: Aggregate[State], read: Callable[[AggregateKey], bytes | None]
    ) -> None:
        self._aggregate = aggregate
        self._read = read
        # By tenant and id: a named tuple for every event would take a tenth of the time.
        self._states: dict[tuple[str, str], State] = {}
        self._kept: list[tuple[str, str, int, int, bytes]] = []

    def get(self, event: RecordedEvent) -> State | None:
        """The state that the event meets; to be used before the event is folded."""
        return self._get((event.tenant_id, event.aggregate_id))

    def fold(self, event: RecordedEvent) -> tuple[State, Message | None]:
        """The state after the event, and its payload.

        None is one of an unknown type, which only moves the version on.
        """
        tenant_and_id = event.tenant_id, event.aggregate_id
        before = self._states.get(tenant_and_id) or self._get(tenant_and_id)
        payload = self._aggregate.unpack_known(event)
        state = self._aggregate.fold_known(before, event, payload)
        self._states[tenant_and_id] = state
        if event.version % KEPT_EVERY == 0:
            kept = event.version, event.position, _serialized(state)
            self._kept.append((*tenant_and_id, *kept))
        return state, payload

    def write(self, db: sqlite3.Connection, columns: Columns[State]) -> dict[AggregateKey, bytes]:
        """Stores it all, and returns the states that changed."""
        changed = {
            self._key(tenant_and_id): _serialized(state)
            for tenant_and_id, state in self._states.items()
        }
        values = columns.values()
        rows: list[tuple[SqlValue, ...]] = [
            (*tenant_and_id, *[value(state) for value in values], serialized)
            for (tenant_and_id, state), serialized in zip(
                self._states.items(), changed.values(), strict=True
            )
        ]
        insert(db, "states", rows, _update(columns))
        insert(db, "kept_states", self._kept)
        return changed

    def _get(self, tenant_and_id: tuple[str, str]) -> State | None:
        state = self._states.get(tenant_and_id)
        if state is None:
            stored = self._read(self._key(tenant_and_id))
            if stored is None:
                return None
            self._states[tenant_and_id] = state = self._aggregate.state.FromString(stored)
        return state

    def _key(self, tenant_and_id: tuple[str, str]) -> AggregateKey:
        tenant_id, aggregate_id = tenant_and_id
        return AggregateKey(tenant_id, self._aggregate.name, aggregate_id)


def fold_each(
    _db: sqlite3.Connection, events: Iterable[RecordedEvent], states: States[State]
) -> None:
    """What a projection does that has nothing but the states."""
    for event in events:
        states.fold(event)


def schema_of(columns: Iterable[str]) -> str:
    """SQL that makes the tables."""
    return f"""
CREATE TABLE states (
    tenant_id TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    {" ".join(f"{name} ANY NOT NULL," for name in columns)}
    state BLOB NOT NULL,
    PRIMARY KEY (tenant_id, aggregate_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE kept_states (
    tenant_id TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (tenant_id, aggregate_id, version)
) STRICT;
CREATE INDEX kept_states_by_position ON kept_states (tenant_id, aggregate_id, position);
"""


def read_state(db: sqlite3.Connection, key: AggregateKey) -> bytes | None:
    """The serialized state of an aggregate; None: there is none."""
    found = db.execute(
        "SELECT state FROM states WHERE tenant_id = ? AND aggregate_id = ?", _id(key)
    ).fetchone()
    return found[0] if found else None


def newest_kept_state(
    db: sqlite3.Connection, key: AggregateKey, position: int, version: int | None
) -> KeptState | None:
    """The newest one up to a position and, if it is given, a version; None: there is none."""
    bounds, latest = [position], "position"
    where = "tenant_id = ? AND aggregate_id = ? AND position <= ?"
    if version is not None:
        bounds, latest = [position, version], "version"
        where += " AND version <= ?"
    found = db.execute(
        f"SELECT position, state FROM kept_states WHERE {where} ORDER BY {latest} DESC LIMIT 1",  # noqa: S608  # ours
        (*_id(key), *bounds),
    ).fetchone()
    return KeptState(*found) if found else None


def _update(columns: Iterable[str]) -> str:
    updates = ", ".join(f"{name} = excluded.{name}" for name in (*columns, "state"))
    return f"ON CONFLICT DO UPDATE SET {updates}"


def _serialized(state: Message) -> bytes:
    """Equal states are equal bytes."""
    return state.SerializeToString(deterministic=True)


def _id(key: AggregateKey) -> tuple[str, str]:
    """A projection's tables have only one kind of aggregate."""
    return key.tenant_id, key.aggregate_id
