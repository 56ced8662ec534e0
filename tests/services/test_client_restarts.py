"""The Python client while services are killed and started again."""

import asyncio
from contextlib import aclosing

from examples.services import start_command_service
from shared.client import Client
from shared.client.connection import Connection
from shared.errors import (
    TidemarkError,
    Unavailable,
)
from tests.services.clients import connection_to, to_count
from tests.services.deployment import CommandClient, Deployment
from tests.services.subscribing import history
from tests.services.terminal import SOON_S, Terminal
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.ship_pb2 import (
    DockShip,
    RegisterShip,
)


async def test_a_command_outlives_a_restart_and_takes_effect_once(
    own: Deployment, ship_id: str
) -> None:
    async with Client(connection_to(own)) as client:
        await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))
        await own.command.kill()
        waiting = asyncio.create_task(client.execute(DockShip(ship_id=ship_id, port="Kiel")))
        await own.start_command()

        receipt = await waiting

    assert receipt.version == 2
    assert len(await history(own.commands.log, ship_id)) == 2


async def test_a_subscription_outlives_restarts_without_a_gap_or_a_repeat(
    own: Deployment, ship_id: str
) -> None:
    interruptions: list[TidemarkError] = []
    async with (
        Client(connection_to(own)) as client,
        aclosing(client.subscribe(on_interruption=interruptions.append)) as responses,
    ):
        await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))
        events = await to_count(responses, 1)
        await own.query.kill()
        await client.execute(DockShip(ship_id=ship_id, port="Kiel"))
        await own.start_query()
        events += await to_count(responses, 1)
        await own.command.stop()
        await own.start_command()
        await own.query.stop()
        await own.start_query()
        await client.execute(DockShip(ship_id=ship_id, port="Riga"))
        events += await to_count(responses, 1)

    assert events == await history(own.commands.log)
    assert len(interruptions) >= 2
    assert {type(each) for each in interruptions} == {Unavailable}


async def test_a_subscription_from_a_time_that_is_interrupted_before_it_begins_with_that_time(
    own: Deployment, ship_id: str
) -> None:
    async with Client(connection_to(own)) as client:
        await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))
        # What follows, the query service cannot hear of.
        await own.command.kill()
        elsewhere = await start_command_service(own.folder, "127.0.0.1:0")
        async with Client(Connection(elsewhere.address)) as other:
            for port in ("Kiel", "Riga"):
                await other.execute(DockShip(ship_id=ship_id, port=port))
        commands = CommandClient(elsewhere.address)
        last = (await history(commands.log, ship_id))[-1]
        await commands.channel.close()
        await elsewhere.stop()
        request = SubscribeRequest(from_time=last.occurred_at)
        async with aclosing(client.subscribe(request)) as responses:
            early = await anext(responses)
            await own.query.kill()
            await own.start_command()
            await own.start_query()
            events = await to_count(responses, 1)

    assert not early.events
    assert events == [last]


async def test_a_lag_that_cannot_be_known_is_said_to_be_unknown(own: Deployment) -> None:
    terminal = Terminal(own, "default")
    known = await terminal.reads("projections", "--json")

    await own.command.kill()
    async with asyncio.timeout(SOON_S):
        while "unknown" not in (printed := await terminal.sees("projections")):
            pass
    unknown = await terminal.reads("projections", "--json")

    assert [each["seconds_behind"] for each in known] == [0, 0]
    assert printed.count("unknown") == 4
    assert [(each["seconds_behind"], each["events_behind"]) for each in unknown] == [
        (None, None)
    ] * 2
