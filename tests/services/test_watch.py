"""Watching one aggregate: its state at once, and the newest again after changes."""

import asyncio
import time
from typing import Any

import grpc
import pytest

from shared.aggregates.user import USER
from shared.event_log_service import HEARTBEAT_S
from tests.services.caller import Caller, but
from tests.services.deployment import SHIP_QUERIES, Deployment
from tests.services.histories import folded
from tests.services.refusals import missing, unavailable
from tidemark.v1.query_pb2 import RebuildProjectionRequest
from tidemark.v1.ship_pb2 import (
    DepartShip,
    DockShip,
    ListPortsRequest,
    ListShipsRequest,
    LoadCargo,
    RegisterShip,
    UnloadCargo,
    WatchShipRequest,
    WatchShipResponse,
)
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    DeleteUser,
    ListUsersRequest,
    WatchUserRequest,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]

WATCH_SHIP = WatchShipRequest(ship_id="one")
WATCH_USER = WatchUserRequest(user_id="one")
REGISTER = RegisterShip(ship_id="one", name="Aurora")
CREATE = CreateUser(user_id="one", username="ada", balance=10)
CHANGE = ChangeUserBalance(user_id="one", balance_change=1)


async def watching(caller: Caller, request: Any) -> Any:
    """A watch of what the projections have come to, its first state not read yet."""
    for query in (ListShipsRequest(), ListUsersRequest()):
        await caller.ask(query)
    return caller.stream(request)


async def until_version(watch: Any, version: int) -> list[Any]:
    """The responses of a watch up to that version of the state; none is older than one before."""
    seen: list[Any] = []
    while not seen or state_of(seen[-1]).version < version:
        response = await watch.read()
        assert response is not grpc.aio.EOF
        seen.append(response)
    for key in (lambda each: state_of(each).version, lambda each: each.position):
        assert seen == sorted(seen, key=key)
    return seen


def state_of(response: Any) -> Any:
    """The ship or the user."""
    return response.ship if isinstance(response, WatchShipResponse) else response.user


async def test_a_watch_sends_the_ship_at_once_and_after_each_change(caller: Caller) -> None:
    await caller.do(REGISTER)

    watch = await watching(caller, WATCH_SHIP)

    assert (await watch.read()).ship.name == "Aurora"
    for version, command in enumerate(
        (
            DockShip(ship_id="one", port="Oslo"),
            LoadCargo(ship_id="one", item="silk", quantity=2),
            UnloadCargo(ship_id="one", item="silk", quantity=2),
            DepartShip(ship_id="one"),
        ),
        start=2,
    ):
        (receipt,) = await caller.do(command)
        response = await watch.read()
        assert response.ship.version == version
        assert response.position >= receipt.position
    watch.cancel()


async def test_a_watch_sends_the_user_at_once_and_after_each_change(caller: Caller) -> None:
    await caller.do(CREATE)

    watch = await watching(caller, WATCH_USER)

    assert (await watch.read()).user.balance == 10
    for balance in (11, 12, 13):
        await caller.do(CHANGE)
        assert (await watch.read()).user.balance == balance
    watch.cancel()


async def test_changes_of_others_do_not_disturb_a_watch(caller: Caller, shared: Deployment) -> None:
    await caller.do(CREATE)
    namesake = Caller(shared.commands, shared.queries, f"not-{caller.tenant_id}")
    watch = await watching(caller, WATCH_USER)
    await watch.read()

    await caller.do(CreateUser(user_id="other", username="bob"), REGISTER)
    await namesake.do(CREATE, CHANGE, CHANGE)
    await caller.do(CHANGE)

    response = await watch.read()
    assert response.user.version == 2
    watch.cancel()


async def test_a_fast_sequence_of_changes_ends_with_the_newest_state(caller: Caller) -> None:
    await caller.do(CREATE)
    watch = await watching(caller, WATCH_USER)

    changing = asyncio.ensure_future(caller.do(*[CHANGE] * 1500))
    seen = await until_version(watch, 1501)

    await changing
    assert seen[-1].user == folded(USER, await caller.events("one"))
    watch.cancel()


async def test_a_slow_watcher_gets_the_newest_rather_than_the_backlog(
    caller: Caller, shared: Deployment
) -> None:
    # The states are so large, and the connection holds so little, that few are on their way.
    await caller.do(
        REGISTER,
        DockShip(ship_id="one", port="Oslo"),
        *(LoadCargo(ship_id="one", item=f"{n}".zfill(250), quantity=1) for n in range(400)),
    )
    options = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with shared.access.channel(shared.query.address, options) as channel:
        ships: Any = shared.access.stub(channel, SHIP_QUERIES)
        request = but(WATCH_SHIP, min_position=caller.position)
        watch = ships.WatchShip(request, metadata=caller.metadata, timeout=30)
        first = (await watch.read()).ship
        assert first.ByteSize() > 100_000

        changes = 200
        for _ in range(changes):
            await caller.do(DockShip(ship_id="one", port="Oslo"))
            await caller.ask(ListPortsRequest())
        seen = await until_version(watch, first.version + changes)

    assert len(seen) <= 10


async def test_a_state_is_not_sent_again_without_a_change(caller: Caller) -> None:
    (created,) = await caller.do(CREATE)
    watches = [
        caller.stream(WatchUserRequest(user_id="one", min_position=created.position + 1))
        for _ in range(20)
    ]
    # What is answered now was asked after them.
    await caller.ask(ListUsersRequest())

    await caller.do(CHANGE)
    second = [(await watch.read()).user.version for watch in watches]
    await caller.do(CHANGE)
    third = [(await watch.read()).user.version for watch in watches]

    assert set(second) == {2}
    assert set(third) == {3}
    for watch in watches:
        watch.cancel()


async def test_a_watch_begun_early_waits_for_its_min_position(caller: Caller) -> None:
    (created,) = await caller.do(CREATE)

    watch = caller.stream(WatchUserRequest(user_id="one", min_position=created.position + 1))
    reading = asyncio.ensure_future(watch.read())
    await caller.do(CHANGE)

    assert (await reading).user.version == 2
    watch.cancel()


@pytest.mark.parametrize(
    ("request_", "reason"), [(WATCH_SHIP, "SHIP_NOT_FOUND"), (WATCH_USER, "USER_NOT_FOUND")]
)
async def test_what_is_not_there_cannot_be_watched(
    caller: Caller, request_: Any, reason: str
) -> None:
    with missing(reason):
        await caller.stream(request_).read()


async def test_a_deletion_is_the_last_state_of_a_watch(caller: Caller) -> None:
    await caller.do(CREATE)
    watch = await watching(caller, WATCH_USER)
    await watch.read()

    await caller.do(DeleteUser(user_id="one"))

    last = (await watch.read()).user
    assert last == folded(USER, await caller.events("one"))
    assert last.deleted
    assert await watch.read() is grpc.aio.EOF
    assert await watch.code() is grpc.StatusCode.OK


async def test_what_is_deleted_cannot_be_watched(caller: Caller) -> None:
    await caller.do(CREATE, DeleteUser(user_id="one"))

    with missing("USER_NOT_FOUND"):
        await caller.stream(WATCH_USER).read()


async def test_many_watchers_of_one_ship_all_see_its_changes(caller: Caller) -> None:
    await caller.do(REGISTER)
    watches = [await watching(caller, WATCH_SHIP) for _ in range(50)]
    for watch in watches:
        await watch.read()

    await caller.do(DockShip(ship_id="one", port="Oslo"))

    for watch in watches:
        assert (await watch.read()).ship.current_port == "Oslo"
        watch.cancel()


async def test_a_watch_goes_on_across_a_rebuild(caller: Caller) -> None:
    await caller.do(CREATE)
    watch = await watching(caller, WATCH_USER)
    await watch.read()

    for version in (2, 3, 4):
        await caller.all(RebuildProjectionRequest(name="users"))
        await caller.do(CHANGE)
        await until_version(watch, version)
    watch.cancel()


async def test_a_heartbeat_repeats_the_state(caller: Caller) -> None:
    await caller.do(REGISTER, CREATE)
    watches = [await watching(caller, request) for request in (WATCH_SHIP, WATCH_USER)]
    first = [await watch.read() for watch in watches]
    began = time.monotonic()

    second = [await watch.read() for watch in watches]

    assert HEARTBEAT_S - 1 < time.monotonic() - began < HEARTBEAT_S + 3
    assert second == first
    for watch in watches:
        watch.cancel()


async def test_a_stopping_service_ends_watches_with_unavailable(
    caller: Caller, shared: Deployment
) -> None:
    await caller.do(REGISTER, CREATE)
    watches = [await watching(caller, request) for request in (WATCH_SHIP, WATCH_USER)]
    for watch in watches:
        await watch.read()

    exit_code = await shared.query.stop()
    await shared.start_query()

    assert exit_code == 0
    for watch in watches:
        with unavailable("DRAINING"):
            await watch.read()
