"""A store and the memory give the same answers, whatever happens in whatever order."""

import asyncio
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from shared.errors import DataLoss
from shared.log.log import (
    EVERYTHING,
    AggregateKey,
    CommandKey,
    Commit,
    EventFilter,
    EventLog,
    stamp,
)
from shared.log.memory import MemoryLog
from shared.log.postgres import PostgresLog
from shared.log.sqlite import SqliteLog, indexing, newest
from tests.log.builders import HOUR, NOON, Clock, command, commit, event, snapshot
from tests.log.reading import digests_of, positions_of, records_of
from tests.postgres.databases import Databases
from tidemark.v1.ship_pb2 import ShipDeparted, ShipDocked
from tidemark.v1.user_pb2 import UserCreated

T = TypeVar("T")

Payload = ShipDeparted | ShipDocked | UserCreated
PAYLOADS: list[Payload] = [ShipDeparted(), ShipDocked(port="Oslo"), UserCreated(username="ada")]
TENANTS = ["acme", "zenith"]
# Few, so that they meet.
KEYS = [AggregateKey(t, kind, id_) for t in TENANTS for kind in ("ship", "user") for id_ in "12"]
COMMANDS = range(8)
CORRELATIONS = ["north", "south"]
SCHEMAS = [b"schema 1", b"schema 2"]


@dataclass(frozen=True)
class Attempt:
    """A commit that is yet to be given a version: the right one, or one beside it."""

    key: AggregateKey
    mistake: int
    payloads: list[Payload]
    command_number: int | None
    correlation_id: str
    schema: bytes | None

    def commit(self, version: int) -> Commit:
        expected_version = max(0, version + self.mistake)
        return commit(
            self.key,
            expected_version,
            self.payloads,
            command=command_for(self.key, self.command_number),
            correlation_id=self.correlation_id,
            snapshot=snapshot(expected_version + len(self.payloads), schema=self.schema)
            if self.schema and self.payloads
            else None,
        )


@dataclass(frozen=True)
class Foreign:
    """An event of another log, so far beyond the head or the one before; 0 is not beyond it."""

    key: AggregateKey
    payload: Payload
    command_number: int | None
    positions: int
    microseconds: int


def command_for(key: AggregateKey, number: int | None) -> CommandKey | None:
    return None if number is None else command(number, key.tenant_id)


def condition(values: list[str]) -> st.SearchStrategy[frozenset[str]]:
    """None, as often as not."""
    return st.just(frozenset[str]()) | st.frozensets(st.sampled_from(values), min_size=1)


attempts = st.builds(
    Attempt,
    key=st.sampled_from(KEYS),
    mistake=st.sampled_from([0, 0, 0, 0, -1, 1]),
    payloads=st.lists(st.sampled_from(PAYLOADS), max_size=3),
    command_number=st.none() | st.sampled_from(COMMANDS),
    correlation_id=st.sampled_from(CORRELATIONS),
    schema=st.none() | st.sampled_from(SCHEMAS),
)
foreign_events = st.builds(
    Foreign,
    key=st.sampled_from(KEYS),
    payload=st.sampled_from(PAYLOADS),
    command_number=st.none() | st.sampled_from(COMMANDS),
    positions=st.sampled_from([1, 1, 1, 1, 2, 5, 0]),
    microseconds=st.sampled_from([1, 1, 1, 1, 7, HOUR, 0]),
)
filters = st.builds(
    EventFilter,
    tenant_id=st.none() | st.sampled_from(TENANTS),
    event_types=condition([payload.DESCRIPTOR.full_name for payload in PAYLOADS]),
    aggregate_types=condition(["ship", "user", "unknown"]),
    aggregate_ids=condition(["1", "2", "3"]),
    correlation_ids=condition(CORRELATIONS),
)


class Adapters(RuleBasedStateMachine):
    """The same questions to both; each answer is compared."""

    answers: ClassVar[Counter[str]] = Counter()
    """How often all runs together came to each: one that never came was not compared."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.loop = asyncio.Runner()
        self.place = ExitStack()
        self.memory = MemoryLog(self.clock)
        self.prepare()
        self.stored = self.opened()

    @abstractmethod
    def prepare(self) -> None:
        """Makes a place for the store, which is empty."""

    @abstractmethod
    def opened(self) -> EventLog:
        """The store in its place."""

    def teardown(self) -> None:
        self.loop.run(self.stored.close())
        self.loop.close()
        self.place.close()

    @rule(attempted=st.lists(attempts, min_size=1, max_size=5))
    def append(self, attempted: list[Attempt]) -> None:
        versions = self._versions()
        numbered = []
        for attempt in attempted:
            numbered.append((attempt, versions[attempt.key]))
            if attempt.mistake == 0:
                versions[attempt.key] += len(attempt.payloads)

        # Each log is given its own, since it completes them in place.
        outcomes = self._agreed(
            lambda log: log.append([attempt.commit(version) for attempt, version in numbered])
        )

        self.answers.update(type(outcome).__name__ for outcome in outcomes)

    @rule(
        foreign=st.lists(foreign_events, min_size=1, max_size=4),
        digest=st.sampled_from([None, b"", b"not that"]),
    )
    def copy(self, foreign: list[Foreign], digest: bytes | None) -> None:
        """Args: digest: to be checked; None: the right one."""
        versions = self._versions()
        position, time = self.memory.head.position, self.memory.head.time or NOON
        records = []
        for each in foreign:
            versions[each.key] += 1
            position += each.positions
            time += each.microseconds
            caused_by = command_for(each.key, each.command_number)
            copied = event(each.key, versions[each.key], each.payload, caused_by=caused_by)
            records.append(stamp(copied, position, time))
        if digest is None:
            digest = digests_of([*self.loop.run(records_of(self.memory)), *records])[-1]

        refusal = self._agreed(lambda log: refusal_of(log.copy(records, digest)))

        self.answers["copied" if refusal is None else refusal] += 1

    @rule(change=st.sampled_from([-HOUR, -1, 1, 5, HOUR]))
    def set_clock(self, change: int) -> None:
        self.clock.now += change

    @rule()
    def reopen(self) -> None:
        self.loop.run(self.stored.close())
        self.stored = self.opened()

    @rule(
        after=st.integers(0, 20),
        limit=st.integers(1, 6),
        events_until=st.none() | st.integers(1, 40),
        selected=st.lists(filters, min_size=1, max_size=5),
    )
    def read(
        self, after: int, limit: int, events_until: int | None, selected: list[EventFilter]
    ) -> None:
        until = None
        if events_until is not None:
            until = max(after, self.loop.run(self.memory.read(0, events_until)).position)

        for event_filter in (EVERYTHING, *selected):
            self._read(after, limit, event_filter, until)

    @rule(
        key=st.sampled_from(KEYS),
        after_version=st.integers(0, 5),
        until_position=st.none() | st.integers(0, 40),
    )
    def read_aggregate(
        self, key: AggregateKey, after_version: int, until_position: int | None
    ) -> None:
        self._agreed(lambda log: log.read_aggregate(key, after_version, until_position))

    @rule(schema=st.sampled_from(SCHEMAS))
    def load(self, schema: bytes) -> None:
        self._load(schema)

    @rule()
    def receipts(self) -> None:
        commands = [command(number, tenant_id) for number in COMMANDS for tenant_id in TENANTS]
        self._agreed(lambda log: log.receipts(commands))

    @rule(microseconds=st.integers(0, 40))
    def position_at(self, microseconds: int) -> None:
        self._agreed(lambda log: log.position_at(NOON + microseconds))
        self._agreed(lambda log: log.position_at(max(0, log.head.time - microseconds)))

    @rule(position=st.integers(0, 40))
    def digest_and_time(self, position: int) -> None:
        self._agreed(lambda log: log.digest_at(position))
        self._agreed(lambda log: log.event_time(position))

    @invariant()
    def records_and_digests_agree(self) -> None:
        records = self._agreed(records_of)

        assert self.stored.head == self.memory.head
        assert self.stored.head.digest == digests_of(records)[-1]
        assert positions_of(records)[-1:] in ([], [self.stored.head.position])

    @invariant()
    def pages_and_histories_agree(self) -> None:
        self._read(0, 3, EVERYTHING, None)
        self._read(0, 3, EventFilter("acme"), None)
        self._load(SCHEMAS[0])

    def _versions(self) -> dict[AggregateKey, int]:
        return {key: len(self.loop.run(self.memory.read_aggregate(key))) for key in KEYS}

    def _read(self, after: int, limit: int, event_filter: EventFilter, until: int | None) -> None:
        page = self._agreed(lambda log: log.read(after, limit, event_filter, until))

        kind = "everything" if event_filter == EVERYTHING else "some"
        self.answers[f"page of {kind}"] += bool(page.records)

    def _load(self, schema: bytes) -> None:
        histories = self._agreed(lambda log: log.load(dict.fromkeys(KEYS, schema)))

        self.answers["snapshot"] += any(history.snapshot for history in histories.values())

    def _agreed(self, ask: Callable[[EventLog], Coroutine[object, object, T]]) -> T:
        expected = self.loop.run(ask(self.memory))
        assert self.loop.run(ask(self.stored)) == expected
        return expected


class SqliteAndMemory(Adapters):
    """SQLite, in a folder of its own."""

    def prepare(self) -> None:
        self.path = Path(self.place.enter_context(TemporaryDirectory())) / "log.db"

    def opened(self) -> SqliteLog:
        return self.loop.run(SqliteLog.open(self.path, synchronous="NORMAL", clock=self.clock))


class PostgresAndMemory(Adapters):
    """PostgreSQL, in a schema of its own."""

    databases: ClassVar[Databases]

    def prepare(self) -> None:
        self.url = self.place.enter_context(self.databases.empty())

    def opened(self) -> PostgresLog:
        return self.loop.run(PostgresLog.open(self.url, clock=self.clock))


async def refusal_of(copying: Coroutine[object, object, None]) -> str | None:
    try:
        await copying
    except DataLoss as error:
        return error.reason
    return None


@pytest.mark.parametrize(("events", "size"), [(3, 500), (indexing.INDEX_EVENTS, newest.MAX_BYTES)])
def test_sqlite_gives_the_same_answers(
    monkeypatch: pytest.MonkeyPatch, events: int, size: int
) -> None:
    monkeypatch.setattr(indexing, "INDEX_EVENTS", events)
    monkeypatch.setattr(newest, "MAX_BYTES", size)
    compare(SqliteAndMemory, examples=40)


def test_postgres_gives_the_same_answers(databases: Databases) -> None:
    PostgresAndMemory.databases = databases
    compare(PostgresAndMemory, examples=6)


def compare(adapters: type[Adapters], examples: int) -> None:
    expected = {"Committed", "WrongVersion", "Duplicate", "copied", "LOG_DIVERGED"}
    expected |= {"page of everything", "page of some", "snapshot"}
    Adapters.answers.clear()

    # Chance may leave one out, but not every time.
    for _ in range(5):
        run_state_machine_as_test(
            adapters,
            settings=settings(max_examples=examples, stateful_step_count=40, deadline=None),
        )
        if (+Adapters.answers).keys() == expected:
            break

    assert (+Adapters.answers).keys() == expected
