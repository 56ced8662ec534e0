"""A query service whose files do not fit each other any more."""

import sqlite3
from contextlib import closing
from pathlib import Path

import grpc

from tests.services.caller import Caller
from tests.services.deployment import Deployment
from tests.services.health import NOT_SERVING, SERVING, health_of, until_health
from tests.services.refusals import refused, unavailable
from tidemark.v1.query_pb2 import (
    AsOf,
    ListProjectionsRequest,
    ProjectionState,
    RebuildProjectionRequest,
)
from tidemark.v1.ship_pb2 import DockShip, GetShipRequest, RegisterShip
from tidemark.v1.user_pb2 import CreateUser, GetUserRequest

SHIPS = "tidemark.v1.ShipQueryService"
LAST = DockShip(ship_id="aurora", port="Oslo")


async def test_a_projection_ahead_of_its_copy_answers_nothing_until_the_copy_has_come_as_far(
    own: Deployment,
) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(RegisterShip(ship_id="aurora", name="Aurora"), LAST)
    await caller.ask(GetShipRequest(ship_id="aurora"))
    await own.query.stop()
    await own.command.stop()
    (own.folder / "query" / "log.db").unlink()

    await own.start_query()
    with unavailable("PROJECTION_BEHIND"):
        await own.queries.ships.GetShip(GetShipRequest(ship_id="aurora"), timeout=1)
    listed = await own.queries.projections.ListProjections(ListProjectionsRequest(), timeout=5)
    await own.start_command()
    found = await caller.ask(GetShipRequest(ship_id="aurora"))

    states = {status.state for status in listed.projections}
    assert states == {ProjectionState.PROJECTION_STATE_CATCHING_UP}
    assert found.ship.current_port == "Oslo"


async def test_a_projection_of_another_log_faults_and_a_rebuild_mends_it(own: Deployment) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(RegisterShip(ship_id="aurora", name="Aurora"), LAST)
    await caller.ask(GetShipRequest(ship_id="aurora"))
    await own.query.stop()
    await own.command.stop()
    (own.folder / "query" / "log.db").unlink()
    (own.folder / "log.db").unlink()
    await own.start_command()
    await caller.do(RegisterShip(ship_id="aurora", name="Another"), LAST, LAST)

    await own.start_query()
    await until_health(own.queries.channel, SHIPS, NOT_SERVING)
    with unavailable("PROJECTION_FAULTED"):
        await caller.ask(GetShipRequest(ship_id="aurora"))
    rebuild = RebuildProjectionRequest(name="ships")
    progress = [
        each async for each in own.queries.projections.RebuildProjection(rebuild, timeout=20)
    ]
    found = await caller.ask(GetShipRequest(ship_id="aurora"))

    assert progress[-1].done
    assert (found.ship.name, found.ship.version) == ("Another", 3)
    await until_health(own.queries.channel, SHIPS, SERVING)


async def test_damage_in_the_copy_stops_what_has_to_read_it_and_nothing_else(
    own: Deployment,
) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(
        RegisterShip(ship_id="aurora", name="Aurora"),
        CreateUser(user_id="ada", username="Ada", balance=1),
        # The end of the log is looked at when it is opened, and what is damaged is not to be there.
        *[LAST] * 50,
    )
    await caller.ask(GetUserRequest(user_id="ada"))
    await own.query.stop()
    damage(own.folder / "query")

    await own.start_query()
    # Ready: each projection has caught up, or is faulted.
    await until_health(own.queries.channel, "", SERVING)
    assert await health_of(own.queries.channel, SHIPS) == NOT_SERVING
    with unavailable("PROJECTION_FAULTED"):
        await caller.ask(GetShipRequest(ship_id="aurora"))
    with refused(grpc.StatusCode.DATA_LOSS, "LOG_CORRUPT"):
        await caller.ask(GetShipRequest(ship_id="aurora", as_of=AsOf(version=1)))
    assert await health_of(own.queries.channel, "projection/users") == SERVING
    # But names are not shown: whether somebody was erased, a damaged copy cannot say.
    with refused(grpc.StatusCode.DATA_LOSS, "LOG_CORRUPT"):
        await caller.ask(GetUserRequest(user_id="ada"))


def damage(store: Path) -> None:
    """Breaks the first events of the copy, and has the ships built again from it."""
    with closing(sqlite3.connect(store / "log.db")) as db, db:
        db.execute("UPDATE chunks SET records = x'0a020aff' WHERE first = 1")
    for path in store.glob("ships-*.db"):
        path.unlink()
