"""The past with the states that a projection has kept: the same answers, from fewer events."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from query_service.building import Building
from query_service.past import Moment, Past
from query_service.projections.user import USERS
from query_service.projector import Projector
from query_service.states import KEPT_EVERY
from query_service.store import ProjectionStore
from query_service.unsealing import Unsealing
from shared.aggregates.user import USER
from shared.errors import DataLoss, NotFound
from shared.log.log import AggregateKey, Commit
from shared.log.sqlite import SqliteLog
from tests.keys.memory import MemoryKeys
from tests.log.builders import event, user
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.user_pb2 import User, UserBalanceChanged, UserCreated

VERSIONS = 2 * KEPT_EVERY + KEPT_EVERY // 2
ADA, BOB = user("ada"), user("bob")


async def append(log: SqliteLog, first: int, last: int) -> None:
    """Appends versions of both users in turn."""
    for version in range(first, last + 1):
        payload = UserBalanceChanged(balance_change=version) if version > 1 else UserCreated()
        commits = [Commit(key, version - 1, [event(key, version, payload)]) for key in (ADA, BOB)]
        await log.append(commits)


@asynccontextmanager
async def two_histories(folder: Path) -> AsyncIterator[SqliteLog]:
    """A log of two users whose events alternate."""
    async with opened(folder) as log:
        await append(log, 1, VERSIONS)
        yield log


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[SqliteLog]:
    log = await SqliteLog.open(folder / "log.db", synchronous="NORMAL")
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def past_of(folder: Path, log: SqliteLog) -> AsyncIterator[Past]:
    """The past, with what a users projection in the folder has kept."""
    unsealing = Unsealing(MemoryKeys(), [USER])
    projector = await Projector.open(USERS, log, folder, unsealing)
    try:
        await projector.begin()
        yield Past(log, [projector])
    finally:
        await projector.close()


async def build(folder: Path, log: SqliteLog) -> None:
    """Builds the users projection in the folder up to the head."""
    store = await ProjectionStore.open_live(folder, USERS)
    users = Building(log, store)
    while users.can_step:
        await users.step()
    await store.close()


async def every_state(log: SqliteLog, key: AggregateKey) -> dict[int, tuple[int, User]]:
    """By version: the position of its event, and the state that it led to, from every event."""
    states = {}
    state: Any = None
    for record in await log.read_aggregate(key):
        recorded = RecordedEvent.FromString(record)
        state = USER.fold(state, recorded)
        copy = User()
        copy.CopyFrom(state)
        states[recorded.version] = recorded.position, copy
    return states


async def assert_moments_are_right(past: Past, log: SqliteLog) -> None:
    """At, before and after all that could make a difference."""
    for key in (ADA, BOB):
        states = await every_state(log, key)
        near_kept = [
            kept + off for kept in range(0, len(states), KEPT_EVERY) for off in (-1, 0, 1, 2)
        ]
        for version in {*near_kept, VERSIONS, *range(VERSIONS, len(states) + 1)} & states.keys():
            position, state = states[version]
            at_version = await past.state(USER, key, Moment(log.head.position, version))
            at_position = await past.state(USER, key, Moment(position))
            before_next = await past.state(USER, key, Moment(position + 1))
            assert at_version == (state, position)
            assert at_position == (state, position)
            assert before_next == (state, position + 1)


async def test_every_moment_is_the_fold_up_to_it(tmp_path: Path) -> None:
    async with two_histories(tmp_path) as log:
        await build(tmp_path, log)
        async with past_of(tmp_path, log) as past:
            await assert_moments_are_right(past, log)


async def test_so_it_is_when_the_projection_has_not_begun(tmp_path: Path) -> None:
    async with two_histories(tmp_path) as log, past_of(tmp_path, log) as past:
        await assert_moments_are_right(past, log)


async def test_so_it_is_when_the_projection_is_behind(tmp_path: Path) -> None:
    async with two_histories(tmp_path) as log:
        await build(tmp_path, log)
        await append(log, VERSIONS + 1, VERSIONS + 9)
        async with past_of(tmp_path, log) as past:
            await assert_moments_are_right(past, log)


async def test_so_it_is_when_the_projection_is_of_another_log(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with two_histories(tmp_path / "other") as other:
        await build(tmp_path, other)
    async with two_histories(tmp_path) as log, past_of(tmp_path, log) as past:
        await assert_moments_are_right(past, log)


async def test_before_its_first_event_nothing_is_found(tmp_path: Path) -> None:
    async with two_histories(tmp_path) as log:
        await build(tmp_path, log)
        async with past_of(tmp_path, log) as past:
            for key, moment in ((ADA, Moment(0)), (BOB, Moment(1)), (ADA, Moment(900, 0))):
                with pytest.raises(NotFound):
                    await past.state(USER, key, moment)


async def test_the_events_before_a_kept_state_are_not_needed(tmp_path: Path) -> None:
    async with two_histories(tmp_path) as log:
        await build(tmp_path, log)
        states = await every_state(log, ADA)
    with closing(sqlite3.connect(tmp_path / "log.db")) as db, db:
        db.execute("UPDATE chunks SET records = x'0a020aff' WHERE first = 1")
    async with opened(tmp_path) as log, past_of(tmp_path, log) as past:
        for version in (KEPT_EVERY, KEPT_EVERY + 1, 2 * KEPT_EVERY, VERSIONS):
            position, state = states[version]
            at_version = Moment(log.head.position, version)
            assert await past.state(USER, ADA, at_version) == (state, position)
            assert await past.state(USER, ADA, Moment(position)) == (state, position)
        with pytest.raises(DataLoss):
            await past.state(USER, ADA, Moment(log.head.position, KEPT_EVERY - 1))
