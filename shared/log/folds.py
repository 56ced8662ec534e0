"""The states of all aggregates along a log: those not met for a while are on disk."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from shared.aggregates.aggregate import Aggregate, CorruptHistory, UnknownEvent
from shared.log.log import AggregateKey
from shared.sqlite import insert, temporary
from shared.verification import Find
from tidemark.v1.event_pb2 import RecordedEvent

MAX_RECENT = 20_000
MAX_RECENT_BYTES = 64 << 20
"""In memory; beyond, all of it goes to the temporary file."""

SCHEMA = """
CREATE TABLE folds (
    tenant_id TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    state BLOB,
    PRIMARY KEY (tenant_id, aggregate_type, aggregate_id)
) STRICT, WITHOUT ROWID;
"""


class _Fold:
    """How far an aggregate has come; without a state after its first event, it cannot be folded."""

    __slots__ = ("state", "version")

    def __init__(self, version: int, state: Message | None) -> None:
        self.version = version
        self.state = state


class Folds:
    """Follows every aggregate of a log from its first event.

    Args:
        aggregates: the kinds that can be folded, by name.
        find: told which events cannot follow.
    """

    def __init__(self, aggregates: Mapping[str, Aggregate[Any]], find: Find) -> None:
        self._aggregates = aggregates
        self._find = find
        self._recent: dict[AggregateKey, _Fold] = {}
        self._recent_bytes = 0
        self._db = temporary()
        self._db.executescript(SCHEMA)

    def fold(
        self, key: AggregateKey, position: int, event: RecordedEvent, size: int
    ) -> Message | None:
        """The state of an aggregate after its next event; None: the events do not lead to one.

        Args:
            key: which it is.
            position: of the event.
            event: the next one.
            size: of its record, in bytes.
        """
        fold = self._recent.get(key) or self._stored(key)
        # A state grows by no more than what is recorded in it.
        self._recent_bytes += size
        try:
            fold.state = self._folded(fold, key, position, event)
        except CorruptHistory as error:
            self._find(f"Position {position}: {error}")
            fold.state = None
        except UnknownEvent:
            self._find(
                f"Position {position}: this program does not know {event.payload.type_url!r}"
            )
            fold.state = None
        except Exception as error:  # noqa: BLE001  # whatever an aggregate's own code meets
            self._find(f"Position {position}: cannot be folded: {type(error).__name__}: {error}")
            fold.state = None
        fold.version = event.version
        if len(self._recent) >= MAX_RECENT or self._recent_bytes >= MAX_RECENT_BYTES:
            state = fold.state
            self._store()
            return state
        return fold.state

    def count(self) -> int:
        """How many aggregates there are."""
        self._store()
        return int(self._db.execute("SELECT count(*) FROM folds").fetchone()[0])

    def _folded(
        self, fold: _Fold, key: AggregateKey, position: int, event: RecordedEvent
    ) -> Message | None:
        aggregate: Aggregate[Message] | None = self._aggregates.get(key.aggregate_type)
        is_next = event.version == fold.version + 1
        if not is_next:
            self._find(
                f"Position {position}: version {event.version} of {say(key)} follows version"
                f" {fold.version}"
            )
        if aggregate is None:
            if fold.version == 0:
                self._find(f"Position {position}: this program does not know what {say(key)} is")
            return None
        if not is_next or (fold.version and fold.state is None):
            # That it parses can be seen all the same.
            aggregate.unpack(event)
            return None
        return aggregate.fold(fold.state, event)

    def _stored(self, key: AggregateKey) -> _Fold:
        found = self._db.execute(
            "SELECT version, state FROM folds"
            " WHERE tenant_id = ? AND aggregate_type = ? AND aggregate_id = ?",
            key,
        ).fetchone()
        version, state = found or (0, None)
        fold = _Fold(version, None)
        if state is not None:
            self._recent_bytes += len(state)
            fold.state = self._aggregates[key.aggregate_type].state.FromString(state)
        self._recent[key] = fold
        return fold

    def _store(self) -> None:
        rows = [
            (*key, fold.version, None if fold.state is None else fold.state.SerializeToString())
            for key, fold in sorted(self._recent.items(), key=lambda item: item[0])
        ]
        update = "ON CONFLICT DO UPDATE SET version = excluded.version, state = excluded.state"
        insert(self._db, "folds", rows, update)
        self._recent.clear()
        self._recent_bytes = 0


def say(key: AggregateKey) -> str:
    """An aggregate, for people."""
    return f"{key.aggregate_type} {key.aggregate_id!r} of tenant {key.tenant_id!r}"
