"""The query service's copy of the log, whatever happens to it and to what it follows."""

import asyncio
import json
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from examples.services import Service, start_query_service
from shared.aggregates.ship import SHIP
from shared.aggregates.user import USER
from shared.errors import Unavailable
from shared.event_log_service import Origin
from shared.following import SILENCE_S
from shared.log.log import timestamp_of
from shared.log.memory import MemoryLog
from tests.services.caller import OF_EVERY_TENANT, Caller
from tests.services.deployment import (
    CommandClient,
    Deployment,
    QueryClient,
    deployment,
    metadata_of,
)
from tests.services.following import Interrupted, following, following_what, register
from tests.services.health import NOT_SERVING, SERVING, health_of, until_health
from tests.services.histories import WholeLog, folded, states
from tests.services.refusals import refused, unavailable
from tests.services.traffic import PORTS, cargo_of, ports_of, traffic
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.query_pb2 import AsOf, ListProjectionsRequest, ReplayRequest
from tidemark.v1.ship_pb2 import (
    DockShip,
    GetShipRequest,
    ListPortCargoRequest,
    ListPortsRequest,
    ListShipsRequest,
    RegisterShip,
)
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    GetUserRequest,
    ListBalanceChangesRequest,
    ListUsersRequest,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

REGISTER = RegisterShip(ship_id="one", name="Aurora")
DOCK = DockShip(ship_id="one", port="Oslo")
CREATE = CreateUser(user_id="one", username="ada", balance=10)
CHANGE = ChangeUserBalance(user_id="one", balance_change=1)


@pytest_asyncio.fixture(loop_scope="module")
async def own(tmp_path: Path) -> AsyncIterator[Deployment]:
    """Both services for one test, in the loop of this module."""
    async with deployment(tmp_path) as both:
        yield both


@pytest.fixture
def default(own: Deployment) -> Caller:
    """Somebody of the only tenant."""
    return Caller(own.commands, own.queries, "default")


async def caught_up(caller: Caller) -> None:
    """Returns once every projection has come to the caller's last command."""
    await caller.ask(ListShipsRequest())
    await caller.ask(ListUsersRequest())


async def assert_same(original: CommandClient | QueryClient, copy: QueryClient) -> WholeLog:
    """Both give out the same bytes and digests, which chain; returns that log."""
    first, second = await WholeLog.of(original), await WholeLog.of(copy)
    assert second.records == first.records
    assert second.checkpoint.position == first.checkpoint.position
    assert second.checkpoint.digest == first.checkpoint.digest == first.computed_digest
    positions = [event.position for event in first.events]
    assert positions == sorted(set(positions))
    return first


async def assert_projected(caller: Caller) -> None:
    """The lists equal the fold of the only tenant's events."""
    events = await caller.events()
    ships = await caller.ask(ListShipsRequest(page_size=1000))
    assert list(ships.ships) == states(SHIP, events)
    of_ships = [event for event in events if event.aggregate_type == "ship"]
    ports = await caller.ask(ListPortsRequest())
    assert list(ports.ports) == ports_of(of_ships)
    for port in PORTS:
        cargo = await caller.ask(ListPortCargoRequest(port=port))
        assert list(cargo.cargo) == cargo_of(port, of_ships)
    users = await caller.ask(ListUsersRequest(page_size=1000))
    assert list(users.users) == states(USER, events)


@asynccontextmanager
async def under_load(caller: Caller) -> AsyncIterator[None]:
    """Commands come as fast as they can for the length of a block."""
    await caller.do(CREATE)
    is_over = asyncio.Event()

    async def load() -> None:
        commands = traffic(5, 50_000)
        while not is_over.is_set():
            some, commands = commands[:40], commands[40:]
            assert some
            await caller.do(*some, CHANGE)

    loading = asyncio.create_task(load())
    try:
        yield
    finally:
        is_over.set()
        await loading


# Starting in any order


@pytest_asyncio.fixture(loop_scope="module")
async def alone(tmp_path: Path) -> AsyncIterator[Deployment]:
    """A command service that has been started and killed, so that its address is known."""
    both = Deployment(tmp_path)
    try:
        await both.start_command()
        await both.command.kill()
        yield both
    finally:
        await both.close()


async def test_a_query_service_starts_before_what_it_follows(alone: Deployment) -> None:
    await alone.start_query()
    caller = Caller(alone.commands, alone.queries, "default")
    assert await health_of(alone.queries.channel, "live") == SERVING
    assert await health_of(alone.queries.channel, "") == NOT_SERVING
    assert not (await caller.ask(ListShipsRequest())).ships
    for status in (await caller.ask(ListProjectionsRequest())).projections:
        assert not status.HasField("lag")

    await alone.start_command()

    await until_health(alone.queries.channel, "", SERVING)
    await caller.do(REGISTER)
    assert (await caller.ask(GetShipRequest(ship_id="one"))).ship.name == "Aurora"
    lines = (alone.folder / "query.log").read_text().splitlines()
    begun, over = (
        each for each in map(json.loads, lines) if each["event"].startswith("upstream_away")
    )
    assert (begun["event"], begun["reason"]) == ("upstream_away", "UNAVAILABLE")
    assert over["event"] == "upstream_away_no_more"
    assert over["failures"] > 1


async def test_a_query_service_starts_on_a_log_that_is_long_already(alone: Deployment) -> None:
    await alone.start_command()
    first = CommandClient(alone.command.address)
    await Caller(first, first, "default").do(CREATE, *traffic(6, 3000))  # type: ignore[arg-type]
    await first.channel.close()

    await alone.start_query()

    caller = Caller(alone.commands, alone.queries, "default")
    caller.position = 3001
    await assert_projected(caller)
    log = await assert_same(alone.commands, alone.queries)
    assert len(log.records) == 3001


# What it follows goes away and comes back


async def test_a_copy_goes_on_without_a_gap_after_its_upstream_was_killed(
    own: Deployment, default: Caller
) -> None:
    subscribed = WholeLog()
    for number in range(2):
        await default.do(RegisterShip(ship_id=f"ship {number}", name="Aurora"))
        await caught_up(default)
        await subscribed.read_on(own.queries)
        await own.command.kill()
        await own.start_command()
    await default.do(CREATE, *[CHANGE] * 500)
    await caught_up(default)

    await subscribed.read_on(own.queries)

    log = await assert_same(own.commands, own.queries)
    assert subscribed.records == log.records
    assert len(log.records) == 503


async def test_a_subscription_outlives_what_the_query_service_follows(
    own: Deployment, default: Caller
) -> None:
    await default.do(REGISTER)
    await caught_up(default)
    stream = own.queries.log.Subscribe(SubscribeRequest(), metadata=OF_EVERY_TENANT, timeout=30)
    seen = list((await stream.read()).events)

    await own.command.kill()
    await own.start_command()
    await default.do(DOCK, CREATE, CHANGE)
    while len(seen) < 4:
        seen += (await stream.read()).events

    assert seen == (await WholeLog.of(own.commands)).events
    stream.cancel()


async def test_questions_are_answered_while_the_command_service_is_down(
    own: Deployment, default: Caller
) -> None:
    await default.do(REGISTER, DOCK, CREATE, CHANGE)
    events = await default.events()
    records = (await WholeLog.of(own.commands)).records
    await caught_up(default)
    await own.command.kill()

    ship = await default.ask(GetShipRequest(ship_id="one"))
    past = await default.ask(GetShipRequest(ship_id="one", as_of=AsOf(version=1)))
    user = await default.ask(GetUserRequest(user_id="one"))
    changes = await default.ask(ListBalanceChangesRequest(user_id="one"))
    replayed = await default.all(ReplayRequest(aggregate_type="user", aggregate_id="one"))
    log = await WholeLog.of(own.queries)

    assert ship.ship == folded(SHIP, events[:2])
    assert past.ship == folded(SHIP, events[:1])
    assert user.user == folded(USER, events[2:])
    assert [change.balance for change in changes.changes] == [11]
    assert [response.event for response in replayed] == events[2:]
    assert log.records == records
    assert await health_of(own.queries.channel, "") == SERVING


async def test_what_was_heard_of_the_origin_stands_still_when_it_is_gone(
    own: Deployment, default: Caller
) -> None:
    await default.do(REGISTER)
    await caught_up(default)
    await own.command.kill()

    first = (await WholeLog.of(own.queries)).checkpoint
    second = (await WholeLog.of(own.queries)).checkpoint

    assert first.origin_head_position == default.position
    assert first.HasField("origin_heard_at")
    assert second == first


# The query service itself is killed


async def test_nothing_is_lost_or_repeated_when_it_is_stopped_and_killed_under_load(
    own: Deployment, default: Caller
) -> None:
    subscribed = WholeLog()
    async with under_load(default):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            await caught_up(default)
            await subscribed.read_on(own.queries)
            before = default.position
            exit_code = await own.query.stop(number)
            await own.start_query()
            assert exit_code == (-9 if number is signal.SIGKILL else 0)
            assert default.position > before

    await assert_projected(default)
    log = await assert_same(own.commands, own.queries)
    await subscribed.read_on(own.queries)
    assert subscribed.records == log.records


# A query service that follows a query service


@pytest_asyncio.fixture(loop_scope="module")
async def second(own: Deployment) -> AsyncIterator[QueryClient]:
    """A query service that follows the deployment's own."""
    folder = own.folder / "second"
    folder.mkdir()
    log = own.folder / "second.log"
    service: Service = await start_query_service(folder, own.query.address, log=log)
    client = QueryClient(service.address)
    yield client
    await client.channel.close()
    await service.stop()


async def test_a_copy_of_a_copy_is_the_same_log(
    own: Deployment, default: Caller, second: QueryClient
) -> None:
    far = Caller(own.commands, second, "default")
    await far.do(CREATE, *traffic(7, 500))

    await assert_projected(far)
    await assert_same(own.commands, second)
    await caught_up(default)
    assert len((await assert_same(own.queries, second)).records) == 501
    statuses = (await far.ask(ListProjectionsRequest())).projections
    assert [status.lag.ToNanoseconds() for status in statuses] == [0, 0]
    assert {status.head_position for status in statuses} == {far.position}


async def test_a_copy_of_a_copy_waits_for_the_one_in_between(
    own: Deployment, second: QueryClient
) -> None:
    far = Caller(own.commands, second, "default")
    await far.do(REGISTER)
    await caught_up(far)

    await own.query.kill()
    await far.do(DOCK, CREATE, CHANGE)
    assert (await far.ask(GetShipRequest(ship_id="one", min_position=1))).ship.version == 1
    await own.start_query()

    await caught_up(far)
    await assert_projected(far)
    assert len((await assert_same(own.commands, second)).records) == 4


async def test_what_was_heard_of_the_origin_outlives_a_restart_in_between(tmp_path: Path) -> None:
    log = MemoryLog()
    await register(log, "one")
    heard_at = time.time_ns() // 1000
    origin = Origin(10, heard_at)
    async with following(tmp_path, log, lambda: origin) as far:
        await far.ships.ListShips(ListShipsRequest(min_position=1), timeout=10)

        # What a query service says that has been restarted and cannot reach its own upstream.
        origin = Origin(0, 0)
        await register(log, "two")
        await far.ships.ListShips(ListShipsRequest(min_position=2), timeout=10)

        checkpoint = (await WholeLog.of(far)).checkpoint
        assert checkpoint.position == 2
        assert checkpoint.origin_heard_at == timestamp_of(heard_at)
        assert checkpoint.origin_head_position == 10


def ends_well() -> None:
    """The stream is over."""


def fails() -> None:
    raise Unavailable("DRAINING", "The service is stopping")


@pytest.mark.parametrize("end", [ends_well, fails])
async def test_what_came_before_a_stream_ended_is_copied_however_far_behind_it_is(
    end: Callable[[], None], tmp_path: Path
) -> None:
    log = MemoryLog()
    await register(log, "one")
    await register(log, "two")
    async with following_what(tmp_path, Interrupted(log, end)) as far:
        # Sooner than its next stream falls silent.
        shown = await far.ships.ListShips(ListShipsRequest(min_position=2), timeout=SILENCE_S - 1)

    assert [ship.ship_id for ship in shown.ships] == ["one", "two"]


# An upstream that is not the log that was read


@asynccontextmanager
async def offline_log(own: Deployment) -> AsyncIterator[Path]:
    """The command service's file, while it is stopped; it is started again afterwards."""
    assert await own.command.stop() == 0
    path = own.folder / "log.db"
    assert not path.with_name("log.db-wal").exists()
    yield path
    await own.start_command()


async def restore_old_copy(own: Deployment, default: Caller) -> None:
    """The command service loses what it has told the query service last."""
    await default.do(REGISTER)
    async with offline_log(own) as path:
        shutil.copy(path, own.folder / "old.db")
    await default.do(DOCK, CREATE)
    await caught_up(default)
    async with offline_log(own) as path:
        shutil.copy(own.folder / "old.db", path)


async def assert_stopped(own: Deployment, default: Caller) -> None:
    """Following has stopped, the operator is told so, and what was copied still answers."""
    # The whole of it is not ready before it has caught up, either.
    await until_health(own.queries.channel, "tidemark.v1.EventLogService", NOT_SERVING)
    assert await health_of(own.queries.channel, "") == NOT_SERVING
    assert await health_of(own.queries.channel, "tidemark.v1.ShipQueryService") == SERVING
    told = (own.folder / "query.log").read_text()
    assert "following_stopped" in told
    assert "LOG_DIVERGED" in told
    ship = await default.ask(GetShipRequest(ship_id="one"))
    assert ship.ship.current_port == "Oslo"
    replayed = await default.all(ReplayRequest(aggregate_type="ship", aggregate_id="one"))
    assert len(replayed) == 2
    for status in (await default.ask(ListProjectionsRequest())).projections:
        assert not status.HasField("lag")
    assert len((await WholeLog.of(own.queries)).records) == default.position


async def test_following_stops_when_the_upstream_was_restored_from_an_old_copy(
    own: Deployment, default: Caller
) -> None:
    await restore_old_copy(own, default)

    await assert_stopped(own, default)

    # Nothing that comes after is mixed into the copy, not after a restart either.
    log = await WholeLog.of(own.queries)
    await Caller(own.commands, own.queries, "default").do(CREATE, *[CHANGE] * 10)
    assert await own.query.stop() == 0
    await own.start_query()
    await until_health(own.queries.channel, "", NOT_SERVING)
    assert (await WholeLog.of(own.queries)).records == log.records


async def test_following_stops_when_the_upstream_has_another_log(
    own: Deployment, default: Caller
) -> None:
    await default.do(REGISTER, DOCK, CREATE)
    await caught_up(default)
    log = await WholeLog.of(own.queries)
    await own.query.stop()
    async with offline_log(own) as path:
        path.unlink()
    await Caller(own.commands, own.queries, "default").do(CREATE, *[CHANGE] * 10)

    await own.start_query()

    await assert_stopped(own, default)
    with refused(grpc.StatusCode.DATA_LOSS, "LOG_DIVERGED"):
        await log.read_on(own.commands)


async def test_a_checkpoint_of_another_log_is_refused(shared: Deployment, caller: Caller) -> None:
    await caller.do(REGISTER, DOCK)
    await caught_up(caller)
    other = await WholeLog.of(shared.queries)
    other.checkpoint.digest = bytes(31) + b"\1"

    with refused(grpc.StatusCode.DATA_LOSS, "LOG_DIVERGED"):
        await other.read_on(shared.queries)


async def test_a_query_service_may_only_be_behind_who_is_ahead_of_it(
    shared: Deployment, caller: Caller
) -> None:
    await caller.do(REGISTER, DOCK)
    await caught_up(caller)

    for ahead in (1, 2**62):
        request = SubscribeRequest(after_position=caller.position + ahead)
        stream: Any = shared.queries.log.Subscribe(request, metadata=OF_EVERY_TENANT, timeout=10)
        with unavailable("LOG_BEHIND") as error:
            await stream.read()
        assert metadata_of(error.value)["head_position"] == str(caller.position)
