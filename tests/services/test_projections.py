"""The projections: how they are, how they are rebuilt, and how one fails alone."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.any_pb2 import Any as AnyMessage

from query_service.building import BATCH_EVENTS
from query_service.states import KEPT_EVERY
from shared.aggregates.ship import SHIP
from shared.event_log_service import Origin
from shared.following import SILENCE_S
from shared.log.log import AggregateKey, Commit
from shared.log.memory import MemoryLog
from shared.log.sqlite import SqliteLog
from tests.log.builders import event
from tests.services.caller import Caller
from tests.services.deployment import Deployment, deployment, metadata_of
from tests.services.faulty_query_service import POISON
from tests.services.following import following, register
from tests.services.health import NOT_SERVING, SERVING, health_of, until_health
from tests.services.histories import folded, states
from tests.services.refusals import invalid, missing, unavailable
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.query_pb2 import (
    AsOf,
    ListProjectionsRequest,
    ProjectionState,
    ProjectionStatus,
    RebuildProjectionRequest,
    ReplayRequest,
)
from tidemark.v1.ship_pb2 import (
    DockShip,
    GetShipRequest,
    ListPortCargoRequest,
    ListPortsRequest,
    ListShipsRequest,
    LoadCargo,
    RegisterShip,
    ShipDocked,
    ShipRegistered,
    ShipStatus,
    UnloadCargo,
    WatchShipRequest,
)
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    DeleteUser,
    GetUserRequest,
    ListUsersRequest,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

SHIP_QUERY_SERVICE = "tidemark.v1.ShipQueryService"
USER_QUERY_SERVICE = "tidemark.v1.UserQueryService"

LADEN_CHANGES = BATCH_EVENTS + 5_000
"""Events of a rebuild that takes long enough to meet it on its way."""

LIVE = ProjectionState.PROJECTION_STATE_LIVE
REBUILDING = ProjectionState.PROJECTION_STATE_REBUILDING
FAULTED = ProjectionState.PROJECTION_STATE_FAULTED


async def caught_up(caller: Caller) -> None:
    """Returns once every projection has come to the caller's last command."""
    await caller.ask(ListShipsRequest())
    await caller.ask(ListUsersRequest())


async def statuses(caller: Caller) -> dict[str, ProjectionStatus]:
    """How the projections are, by name."""
    response = await caller.ask(ListProjectionsRequest())
    return {status.name: status for status in response.projections}


async def rebuild(caller: Caller, name: str) -> list[Any]:
    """The progress of a rebuild, to its end."""
    return await caller.all(RebuildProjectionRequest(name=name), deadline_s=30)


def files_of(own: Deployment, name: str) -> list[str]:
    """The names of a projection's files."""
    return sorted(path.name for path in (own.folder / "query").glob(f"{name}-*"))


def databases_of(own: Deployment, name: str) -> list[Path]:
    """A projection's databases; there has to be one, but during a rebuild."""
    return sorted((own.folder / "query").glob(f"{name}-*.db"))


def content_of(path: Path) -> dict[str, list[Any]]:
    """Every row of a projection's tables."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        tables = [
            name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type='table'")
        ]
        return {table: sorted(db.execute(f"SELECT * FROM {table}")) for table in tables}  # noqa: S608  # names of ours


def trade(ship_id: str, user_id: str) -> list[Any]:
    """A little of everything that the projections have tables for."""
    return [
        RegisterShip(ship_id=ship_id, name="Aurora"),
        DockShip(ship_id=ship_id, port="Oslo"),
        LoadCargo(ship_id=ship_id, item="silk", quantity=9),
        UnloadCargo(ship_id=ship_id, item="silk", quantity=4),
        DockShip(ship_id=ship_id, port="Rome"),
        CreateUser(user_id=user_id, username="ada", balance=10),
        ChangeUserBalance(user_id=user_id, balance_change=-3),
        CreateUser(user_id=f"{user_id} gone", username="bob", balance=1),
        DeleteUser(user_id=f"{user_id} gone"),
    ]


# How they are


async def test_projections_that_have_caught_up_are_live_without_lag(caller: Caller) -> None:
    await caller.do(*trade("one", "one"))
    await caught_up(caller)

    found = await statuses(caller)

    assert list(found) == ["ships", "users"]
    for status in found.values():
        assert status.state == LIVE
        assert status.schema_version == 2
        assert status.position == status.head_position == caller.position
        assert status.HasField("lag")
        assert status.lag.ToNanoseconds() == 0
        assert (status.fault_position, status.fault) == (0, "")


async def test_after_a_restart_without_its_upstream_the_lag_is_unknown(
    shared: Deployment, caller: Caller
) -> None:
    await caller.do(*trade("one", "one"))
    await caught_up(caller)
    await shared.command.kill()
    await shared.query.stop()

    await shared.start_query()

    found = await statuses(caller)
    await shared.start_command()
    for status in found.values():
        assert status.state == LIVE
        assert status.position == status.head_position == caller.position
        assert not status.HasField("lag")


async def lags_heard(tmp_path: Path, seconds_ago: float) -> list[ProjectionStatus]:
    """How projections that have caught up are, with an upstream that last heard of its own so."""
    log = MemoryLog()
    await register(log, "one")
    heard_at = time.time_ns() // 1000 - round(seconds_ago * 1_000_000)
    async with following(tmp_path, log, lambda: Origin(1, heard_at)) as client:
        await client.ships.ListShips(ListShipsRequest(min_position=1), timeout=10)
        await client.users.ListUsers(ListUsersRequest(min_position=1), timeout=10)
        response = await client.projections.ListProjections(ListProjectionsRequest(), timeout=10)
        return list(response.projections)


async def test_while_the_origin_is_heard_of_there_is_no_lag(tmp_path: Path) -> None:
    for status in await lags_heard(tmp_path, seconds_ago=SILENCE_S / 3):
        assert status.position == status.head_position == 1
        assert status.HasField("lag")
        assert status.lag.ToNanoseconds() == 0


async def test_when_the_origin_has_been_silent_the_lag_is_unknown(tmp_path: Path) -> None:
    for status in await lags_heard(tmp_path, seconds_ago=SILENCE_S + 1):
        assert status.position == status.head_position == 1
        assert not status.HasField("lag")


# Rebuilds


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def laden(shared: Deployment) -> Caller:
    """Somebody whose events take a rebuild of the users several steps."""
    caller = Caller(shared.commands, shared.queries, "laden")
    change = ChangeUserBalance(user_id="one", balance_change=1)
    await caller.do(CreateUser(user_id="one", username="ada"), *[change] * LADEN_CHANGES)
    await caught_up(caller)
    return caller


async def until_progress(caller: Caller) -> tuple[Any, Any]:
    """A rebuild of the users that has begun to come forward, and its newest response."""
    progress = caller.stream(RebuildProjectionRequest(name="users"), deadline_s=30)
    response = await progress.read()
    while response.position == 0:
        response = await progress.read()
    assert not response.done
    return progress, response


async def test_a_rebuild_tells_how_far_it_is_until_it_is_done(laden: Caller) -> None:
    responses = await rebuild(laden, "users")

    positions = [response.position for response in responses]
    assert positions == sorted(positions)
    assert len(set(positions)) > 2
    assert [response.done for response in responses] == [False] * (len(responses) - 1) + [True]
    assert {response.head_position for response in responses} == {positions[-1]}
    assert positions[-1] >= laden.position


async def test_a_second_rebuild_joins_the_one_that_runs(laden: Caller) -> None:
    first, begun = await until_progress(laden)

    second = laden.stream(RebuildProjectionRequest(name="users"), deadline_s=30)
    joined = await second.read()

    assert joined.position >= begun.position
    found = await statuses(laden)
    assert (found["users"].state, found["ships"].state) == (REBUILDING, LIVE)
    assert await health_of(laden.queries.channel, "projection/users") == SERVING
    assert await last_of(first) == await last_of(second)
    assert (await statuses(laden))["users"].state == LIVE


async def last_of(progress: Any) -> Any:
    """The response that says that a rebuild is done."""
    response = await progress.read()
    while not response.done:
        response = await progress.read()
    assert await progress.read() is grpc.aio.EOF
    return response


async def test_hanging_up_does_not_stop_a_rebuild(laden: Caller) -> None:
    progress, begun = await until_progress(laden)

    progress.cancel()

    again = laden.stream(RebuildProjectionRequest(name="users"), deadline_s=30)
    assert (await again.read()).position >= begun.position
    assert (await last_of(again)).position >= laden.position


@pytest.mark.parametrize("name", ["ships", "users"])
async def test_what_is_rebuilt_equals_what_was_built_event_by_event(
    shared: Deployment, caller: Caller, name: str
) -> None:
    for command in trade("one", "one"):
        await caller.do(command)
        await caught_up(caller)
    await caller.do(*[DockShip(ship_id="one", port="Oslo")] * KEPT_EVERY)
    await caller.do(*[ChangeUserBalance(user_id="one", balance_change=1)] * KEPT_EVERY)
    await caught_up(caller)
    (before,) = databases_of(shared, name)
    built = content_of(before)

    await rebuild(caller, name)

    (after,) = databases_of(shared, name)
    assert after != before
    assert content_of(after) == built
    assert all(built.values())


async def test_a_rebuild_removes_the_files_that_it_replaces(
    shared: Deployment, caller: Caller
) -> None:
    await caller.do(*trade("one", "one"))
    (before,) = databases_of(shared, "ships")

    for _ in range(2):
        await rebuild(caller, "ships")

    (after,) = databases_of(shared, "ships")
    assert not any(name.startswith(before.name) for name in files_of(shared, "ships"))
    assert all(name.startswith(after.name) for name in files_of(shared, "ships"))


async def test_what_is_not_there_cannot_be_rebuilt(caller: Caller) -> None:
    for name in ("planes", "Ships", "../ships", "*"):
        with missing("PROJECTION_NOT_FOUND"):
            await rebuild(caller, name)
    with invalid("name"):
        await rebuild(caller, "")


async def test_answers_are_right_and_never_go_back_during_rebuilds(caller: Caller) -> None:
    await caller.do(
        RegisterShip(ship_id="one", name="Aurora"), DockShip(ship_id="one", port="Oslo")
    )
    await caught_up(caller)
    is_over = asyncio.Event()
    answers = []

    async def write() -> None:
        while not is_over.is_set():
            await caller.do(LoadCargo(ship_id="one", item="silk", quantity=1))

    async def read() -> None:
        while not is_over.is_set():
            answers.append(await caller.ask(GetShipRequest(ship_id="one", min_position=1)))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        tasks.create_task(read())
        for _ in range(5):
            await rebuild(caller, "ships")
        is_over.set()

    assert_right(answers, await caller.events("one"))
    assert len(answers) > 10
    now = await caller.ask(GetShipRequest(ship_id="one"))
    assert now.ship == folded(SHIP, await caller.events("one"))


def assert_right(answers: list[Any], events: list[RecordedEvent]) -> None:
    """Each is the ship at the position that it says, and none is older than one before it."""
    assert answers == sorted(answers, key=lambda answer: int(answer.position))
    ship = None
    left = list(events)
    for answer in answers:
        while left and left[0].position <= answer.position:
            ship = SHIP.fold(ship, left.pop(0))
        assert answer.ship == ship


async def test_a_crash_during_a_rebuild_leaves_what_was_there(
    shared: Deployment, laden: Caller
) -> None:
    (before,) = databases_of(shared, "users")
    await until_progress(laden)

    await shared.query.kill()
    assert len(databases_of(shared, "users")) == 2
    await shared.start_query()

    user = (await laden.ask(GetUserRequest(user_id="one"))).user
    assert user.balance == LADEN_CHANGES
    assert databases_of(shared, "users") == [before]


# Faults


@dataclass(frozen=True)
class Poisoned:
    """A deployment whose ships projection has stopped before an event."""

    own: Deployment
    caller: Caller
    position: int
    """Of that event."""
    watch: Any
    """Of a ship, begun before."""


@asynccontextmanager
async def poisoning(folder: Path) -> AsyncIterator[Poisoned]:
    """Has ships projected up to one that is poison, and more after it."""
    own = Deployment(folder)
    try:
        await own.start_command()
        await own.start_query(module="tests.services.faulty_query_service")
        caller = Caller(own.commands, own.queries, "default")
        await caller.do(*trade("one", "one"))
        await caught_up(caller)
        watch = caller.stream(WatchShipRequest(ship_id="one"), deadline_s=60)
        await watch.read()
        more = LoadCargo(ship_id="one", item="tea", quantity=1)
        _, poison, *_ = await caller.do(
            more, RegisterShip(ship_id="bad", name=POISON), more, *trade("two", "two")
        )
        await until_health(own.queries.channel, SHIP_QUERY_SERVICE, NOT_SERVING)
        yield Poisoned(own, caller, poison.position, watch)
    finally:
        await own.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def poisoned(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Poisoned]:
    """One for the tests that only look at it."""
    async with poisoning(tmp_path_factory.mktemp("poisoned")) as found:
        yield found


SHIP_QUESTIONS = [
    GetShipRequest(ship_id="one"),
    GetShipRequest(ship_id="one", min_position=1),
    GetShipRequest(ship_id="nobody"),
    ListShipsRequest(),
    ListPortsRequest(),
    ListPortCargoRequest(port="Oslo"),
]


async def test_a_projection_stops_before_what_it_cannot_apply(poisoned: Poisoned) -> None:
    status = (await statuses(poisoned.caller))["ships"]

    assert status.state == FAULTED
    assert status.fault_position == poisoned.position
    assert "It is poison" in status.fault
    assert status.position == poisoned.position - 1
    assert status.head_position == poisoned.caller.position
    assert status.lag.ToNanoseconds() > 0


async def test_only_its_own_service_is_not_serving(poisoned: Poisoned) -> None:
    channel = poisoned.own.queries.channel

    for service, status in (
        (SHIP_QUERY_SERVICE, NOT_SERVING),
        ("projection/ships", NOT_SERVING),
        ("projection/users", SERVING),
        (USER_QUERY_SERVICE, SERVING),
        ("tidemark.v1.ReplayService", SERVING),
        ("tidemark.v1.EventLogService", SERVING),
        ("", SERVING),
    ):
        assert await health_of(channel, service) == status


async def test_a_faulted_projection_answers_nothing(poisoned: Poisoned) -> None:
    for question in SHIP_QUESTIONS:
        with unavailable("PROJECTION_FAULTED") as error:
            await poisoned.caller.ask(question)
        assert metadata_of(error.value)["fault_position"] == str(poisoned.position)
    with unavailable("PROJECTION_FAULTED"):
        await poisoned.caller.stream(WatchShipRequest(ship_id="one")).read()


async def test_a_fault_ends_the_watches_of_its_projection(poisoned: Poisoned) -> None:
    with unavailable("PROJECTION_FAULTED"):
        while await poisoned.watch.read() is not grpc.aio.EOF:
            pass


async def test_the_past_and_replays_do_not_need_the_projection(poisoned: Poisoned) -> None:
    caller = poisoned.caller

    for ship_id in ("one", "bad", "two"):
        events = [each for each in await caller.events(ship_id) if each.aggregate_type == "ship"]
        now = AsOf(position=caller.position)
        then = await caller.ask(GetShipRequest(ship_id=ship_id, as_of=now))
        replayed = await caller.all(ReplayRequest(aggregate_type="ship", aggregate_id=ship_id))

        assert then.ship == folded(SHIP, events)
        assert [response.event for response in replayed] == events


async def test_the_other_projections_go_on(poisoned: Poisoned) -> None:
    caller = poisoned.caller
    await caller.do(ChangeUserBalance(user_id="one", balance_change=30))

    user = (await caller.ask(GetUserRequest(user_id="one"))).user
    status = (await statuses(caller))["users"]

    assert user.balance == 37
    assert (status.state, status.position) == (LIVE, caller.position)


async def test_a_rebuild_that_meets_the_same_fault_changes_nothing(poisoned: Poisoned) -> None:
    before = files_of(poisoned.own, "ships")

    with unavailable("PROJECTION_FAULTED"):
        await rebuild(poisoned.caller, "ships")

    status = (await statuses(poisoned.caller))["ships"]
    assert (status.state, status.fault_position) == (FAULTED, poisoned.position)
    assert files_of(poisoned.own, "ships") == before


async def test_a_projection_that_has_been_mended_goes_on_from_there(tmp_path: Path) -> None:
    async with poisoning(tmp_path) as poisoned:
        own, caller = poisoned.own, poisoned.caller
        before = files_of(own, "ships")[0]
        await own.query.stop()

        await own.start_query()

        await caught_up(caller)
        events = await caller.events()
        found = await caller.ask(ListShipsRequest())
        assert list(found.ships) == states(SHIP, events)
        cargo = (await caller.ask(ListPortCargoRequest(port="Oslo"))).cargo
        assert [(each.item, each.loaded, each.unloaded) for each in cargo] == [("silk", 18, 8)]
        assert (await statuses(caller))["ships"].state == LIVE
        await until_health(own.queries.channel, SHIP_QUERY_SERVICE, SERVING)
        assert files_of(own, "ships")[0] == before


# Events of types that are not known here


async def test_an_event_of_an_unknown_type_only_moves_the_version_on(tmp_path: Path) -> None:
    key = AggregateKey("default", "ship", "one")
    painted = AnyMessage(type_url="type.googleapis.com/tidemark.v1.ShipPainted", value=b"\x0a\x01x")
    unknown = event(key, 2, ShipDocked())
    unknown.payload.CopyFrom(painted)
    log = await SqliteLog.open(tmp_path / "log.db")
    events = [event(key, 1, ShipRegistered(name="Aurora")), unknown]
    events.append(event(key, 3, ShipDocked(port="Oslo")))
    await log.append([Commit(key, 0, events)])
    await log.close()

    async with deployment(tmp_path) as own:
        caller = Caller(own.commands, own.queries, "default")
        caller.position = 3
        ship = (await caller.ask(GetShipRequest(ship_id="one"))).ship

        assert (ship.name, ship.current_port, ship.version) == ("Aurora", "Oslo", 3)
        assert (await statuses(caller))["ships"].state == LIVE
        past = await caller.ask(GetShipRequest(ship_id="one", as_of=AsOf(version=2)))
        assert (past.ship.status, past.ship.version) == (ShipStatus.SHIP_STATUS_REGISTERED, 2)
        request = ReplayRequest(aggregate_type="ship", aggregate_id="one", include_state=True)
        replayed = await caller.all(request)
        assert [response.event for response in replayed] == events
        assert replayed[1].event.payload == painted
