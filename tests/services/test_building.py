"""A projection on its way along the log: what it answers there, and where it stops."""

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from query_service.building import BATCH_EVENTS, Building, ProjectionFault
from query_service.projection import Projection
from query_service.projections.user import USERS
from query_service.projector import Projector
from query_service.states import KEPT_EVERY, States, fold_each
from query_service.store import ProjectionStore
from query_service.unsealing import Unsealing
from shared.aggregates.user import USER
from shared.errors import Unavailable
from shared.log.log import AggregateKey, Commit
from shared.log.memory import MemoryLog
from tests.keys.memory import MemoryKeys
from tests.log.builders import event, ship, user
from tests.services.histories import folded
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import ShipRegistered
from tidemark.v1.user_pb2 import User, UserBalanceChanged, UserCreated, UserDeleted

IDS = ("ada", "bob", "eve")


@asynccontextmanager
async def building(folder: Path, log: MemoryLog, projection: Projection[Any]) -> AsyncIterator[Any]:
    """The projection's newest file, at the position that it was left at."""
    store = await ProjectionStore.open_live(folder, projection)
    try:
        yield Building(log, store)
    finally:
        await store.close()


async def append(log: MemoryLog, key: AggregateKey, *payloads: Message) -> None:
    """Appends events after those that the aggregate has."""
    version = len(await log.read_aggregate(key, limit=100_000))
    events = [
        event(key, number, payload) for number, payload in enumerate(payloads, start=version + 1)
    ]
    await log.append([Commit(key, version, events)])


async def catch_up(users: Building) -> None:
    """Steps to the head of the log."""
    while users.can_step:
        await users.step()


async def history(log: MemoryLog, key: AggregateKey, position: int) -> list[RecordedEvent]:
    """The events of an aggregate up to a position."""
    records = await log.read_aggregate(key, 0, position, limit=100_000)
    return [RecordedEvent.FromString(record) for record in records]


# What is done, and to which user.
actions = st.lists(
    st.tuples(
        st.sampled_from(["event", "other event", "step", "ask", "ask twice"]), st.sampled_from(IDS)
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(actions)
def test_an_answer_is_the_fold_up_to_its_position_and_never_goes_back(
    actions: list[tuple[str, str]],
) -> None:
    async def act() -> None:
        log = MemoryLog()
        with tempfile.TemporaryDirectory() as folder:
            async with building(Path(folder), log, USERS) as users:
                newest = 0
                for action, name in actions:
                    newest = await done(log, users, action, name, newest)

    asyncio.run(act())


async def done(log: MemoryLog, users: Building, action: str, name: str, newest: int) -> int:
    """Does one thing, and returns the position of the newest answer."""
    key = user(name)
    match action:
        case "event":
            exists = bool(await log.read_aggregate(key, limit=1))
            await append(
                log, key, UserBalanceChanged(balance_change=1) if exists else UserCreated(balance=1)
            )
        case "other event":
            await append(log, ship(name), ShipRegistered(name=name))
        case "step" if users.can_step:
            # The answers come while the step is on its way, too.
            stepping = asyncio.ensure_future(users.step())
            while not stepping.done():
                newest = await asked(log, users, key, newest)
                await asyncio.sleep(0)
        case "ask" | "ask twice":
            for _ in action.split():
                newest = await asked(log, users, key, newest)
    return newest


async def asked(log: MemoryLog, users: Building, key: AggregateKey, newest: int) -> int:
    """Asks for a user, checks the answer, and returns its position."""
    stored, position = await users.store.state(key)
    state = None if stored is None else User.FromString(stored)
    assert state == folded(USER, await history(log, key, position))
    assert position >= newest
    return position


# Faults


class Poison(ValueError):
    """Raised for a user who is deleted."""


def without_deletions(events: Iterable[RecordedEvent]) -> Iterator[RecordedEvent]:
    for each in events:
        if isinstance(USER.unpack_known(each), UserDeleted):
            raise Poison
        yield each


def poisonous(
    db: sqlite3.Connection, events: Iterable[RecordedEvent], states: States[User]
) -> None:
    fold_each(db, without_deletions(events), states)


def poisonous_when_written(
    db: sqlite3.Connection, events: Iterable[RecordedEvent], states: States[User]
) -> None:
    """Finds out only when all events of the batch are gathered."""
    gathered = list(events)
    fold_each(db, gathered, states)
    list(without_deletions(gathered))


@pytest.mark.parametrize("apply", [poisonous, poisonous_when_written])
@pytest.mark.parametrize("place", [1, 2, 3, 999, 1000, 1001, 2500])
async def test_a_fault_stops_before_its_event_wherever_that_is_in_the_batch(
    tmp_path: Path, place: int, apply: Any
) -> None:
    log = MemoryLog()
    await append(log, user(), UserCreated(), *[UserBalanceChanged(balance_change=1)] * place)
    await append(log, user(), UserDeleted(), *[UserBalanceChanged(balance_change=1)] * 50)
    poison = place + 2

    async with building(tmp_path, log, replace(USERS, apply=apply)) as users:
        with pytest.raises(ProjectionFault) as fault:
            await catch_up(users)

        stored, position = await users.store.state(user())
    assert fault.value.position == poison
    assert position == poison - 1
    assert User.FromString(stored) == folded(USER, await history(log, user(), poison - 1))


async def test_a_fault_beyond_a_batch_stops_there(tmp_path: Path) -> None:
    log = MemoryLog()
    changes = [UserBalanceChanged(balance_change=1)] * (BATCH_EVENTS + 5)
    await append(log, user(), UserCreated(), *changes, UserDeleted())

    async with building(tmp_path, log, replace(USERS, apply=poisonous)) as users:
        with pytest.raises(ProjectionFault) as fault:
            await catch_up(users)

    assert fault.value.position == log.head.position


# Files of earlier programs


async def position_with(folder: Path, log: MemoryLog, projection: Projection[Any]) -> int:
    """How far the projection has come when it is opened."""
    async with building(folder, log, projection) as users:
        return int(users.position)


@pytest.mark.parametrize(
    "changed",
    [
        replace(USERS, schema_version=USERS.schema_version + 1),
        replace(USERS, schema=USERS.schema + "CREATE TABLE more (x TEXT) STRICT;"),
        replace(USERS, columns={**USERS.columns, "balance": lambda user: user.balance}),
        replace(USERS, aggregate=replace(USER, evolve_version=2)),
        replace(USERS, aggregate=replace(USER, events=(UserCreated, UserBalanceChanged))),
    ],
    ids=["version", "tables", "columns", "evolve", "events"],
)
async def test_what_would_be_built_differently_today_is_built_anew(
    tmp_path: Path, changed: Projection[Any]
) -> None:
    log = MemoryLog()
    await append(log, user(), UserCreated())
    async with building(tmp_path, log, USERS) as users:
        await catch_up(users)

    assert await position_with(tmp_path, log, USERS) == 1
    assert await position_with(tmp_path, log, changed) == 0


async def test_what_keeps_other_states_of_the_past_is_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MemoryLog()
    await append(log, user(), UserCreated())
    async with building(tmp_path, log, replace(USERS)) as users:
        await catch_up(users)

    monkeypatch.setattr("query_service.projection.KEPT_EVERY", KEPT_EVERY + 1)

    assert await position_with(tmp_path, log, replace(USERS)) == 0


async def test_a_file_of_before_there_were_fingerprints_is_built_anew(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "users-000001.db") as db:
        db.execute("CREATE TABLE checkpoint (position, digest, schema_version, is_live)")
        db.execute("INSERT INTO checkpoint VALUES (7, x'00', 1, 1)")
    db.close()

    assert await position_with(tmp_path, MemoryLog(), USERS) == 0


async def test_only_a_service_that_runs_rebuilds(tmp_path: Path) -> None:
    unsealing = Unsealing(MemoryKeys(), [USER])
    projector = await Projector.open(USERS, MemoryLog(), tmp_path, unsealing)
    running = asyncio.create_task(projector.run())
    try:
        with pytest.raises(Unavailable, match="NOT_RUNNING"):
            projector.rebuild()
        await asyncio.sleep(0)
        rebuild = projector.rebuild()
        running.cancel()
        # It ends only when the rebuild has cleaned up.
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="NOT_RUNNING"):
            projector.rebuild()
    finally:
        running.cancel()
        await asyncio.wait([running])
        await projector.close()

    assert not rebuild.is_done


def replaced_by_a_folder(folder: Path) -> Path:
    """The only file of the projection, which is none any more."""
    [path] = folder.glob("users-*.db")
    path.unlink()
    path.mkdir()
    return path


async def test_a_file_that_cannot_be_removed_hides_no_reason_for_removing_it(
    tmp_path: Path,
) -> None:
    store = await ProjectionStore.create(tmp_path, USERS, is_live=False)
    path = replaced_by_a_folder(tmp_path)

    with capture_logs() as told:
        await store.delete()

    assert [(each["event"], each["path"]) for each in told] == [("projection_file_left", str(path))]
