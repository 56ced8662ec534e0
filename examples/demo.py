"""Two stories through two real services: a user's balance, and a ship's voyage.

`python -m examples.demo` starts services of its own; with the addresses of a command service and a
query service, HOST:PORT each, it tells them through those.
"""

import asyncio
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code
from rich.console import Console
from rich.rule import Rule

from examples.services import start_command_service, start_query_service
from shared.client import Client
from shared.client.connection import Connection
from shared.errors import TidemarkError
from shared.json_events import to_dict
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt
from tidemark.v1.event_pb2 import EventFilter, RecordedEvent, SubscribeRequest
from tidemark.v1.query_pb2 import AsOf, ReplayRequest, ReplayResponse
from tidemark.v1.ship_pb2 import (
    DepartShip,
    DockShip,
    GetShipRequest,
    GetShipResponse,
    LoadCargo,
    RegisterShip,
    Ship,
    ShipStatus,
    UnloadCargo,
)
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser, GetUserRequest, GetUserResponse

console = Console(highlight=False, soft_wrap=True)


async def history(client: Client, aggregate_type: str, aggregate_id: str) -> list[RecordedEvent]:
    """Every event of an aggregate."""
    request = ReplayRequest(aggregate_type=aggregate_type, aggregate_id=aggregate_id)
    return [response.event async for response in client.stream(request, ReplayResponse)]


async def a_users_balance(client: Client) -> None:
    """The first story."""
    console.print(Rule("[bold]1 · A user's balance", align="left", style="cyan"))
    receipt = await told(
        "create test_user with 100", client.execute(CreateUser(username="test_user", balance=100))
    )
    user_id = receipt.aggregate_id
    change = ChangeUserBalance()
    for amount in (10, 250, -50):
        change = ChangeUserBalance(
            user_id=user_id,
            balance_change=amount,
            context=CommandContext(command_id=str(uuid.uuid4())),
        )
        await told(f"change the balance by {amount:+}", client.execute(change))

    async def balance(as_of: AsOf | None = None) -> str:
        response = await client.ask(GetUserRequest(user_id=user_id, as_of=as_of), GetUserResponse)
        return f"balance [bold]{response.user.balance}[/], version {response.user.version}"

    heading("The state now")
    console.print(f"  {await balance()}")

    heading("Replayed, event by event")
    events = await history(client, "user", user_id)
    print_events(events)

    heading("As of the moment before the last change")
    console.print(f"  {await balance(AsOf(time=just_before(events[-1].occurred_at)))}")

    heading("More than there is")
    too_much = ChangeUserBalance(user_id=user_id, balance_change=-1000)
    await refused("change the balance by -1000", client.execute(too_much))
    console.print(f"  nothing was written: {await balance()}")

    heading("The last command once more, under the same command_id")
    await told("change the balance by -50", client.execute(change))
    console.print(f"  it had its effect once: {await balance()}")


async def a_ships_voyage(client: Client) -> None:
    """The second story."""
    console.print()
    console.print(Rule("[bold]2 · A ship's voyage", align="left", style="cyan"))
    ship_id = str(uuid.uuid4())
    async with subscribed(client, ship_id) as live:
        await told(
            "register Pacific Explorer",
            client.execute(RegisterShip(ship_id=ship_id, name="Pacific Explorer")),
        )
        await told("dock in Singapore", client.execute(DockShip(ship_id=ship_id, port="Singapore")))
        load = LoadCargo(ship_id=ship_id, item="electronics", quantity=500)
        await told("load 500 electronics", client.execute(load))
        await told("depart", client.execute(DepartShip(ship_id=ship_id)))
        await told("dock in Hong Kong", client.execute(DockShip(ship_id=ship_id, port="Hong Kong")))
        unload = UnloadCargo(ship_id=ship_id, item="electronics", quantity=200)
        receipt = await told("unload 200 electronics", client.execute(unload))

        async def ship(as_of: AsOf | None = None) -> Ship:
            request = GetShipRequest(ship_id=ship_id, as_of=as_of)
            return (await client.ask(request, GetShipResponse)).ship

        heading("The state now")
        console.print(f"  {described(await ship())}")

        heading("The event log")
        events = await history(client, "ship", ship_id)
        print_events(events)

        heading("As of each version")
        for version in range(1, receipt.version + 1):
            console.print(f"  [dim]{version}[/]  {described(await ship(AsOf(version=version)))}")

        heading("Departing twice")
        last = await told("depart", client.execute(DepartShip(ship_id=ship_id)))
        await refused("depart", client.execute(DepartShip(ship_id=ship_id)))

        heading("What a subscriber saw that was attached from the start")
        seen = [await anext(live) for _ in range(last.version)]
        is_same = seen == await history(client, "ship", ship_id)
        console.print(
            f"  {len(seen)} events, live, "
            + ("[green]the same as the log has[/]" if is_same else "[red]NOT the same[/]")
        )
        if not is_same:
            raise SystemExit("The subscriber saw other events than the log has")


@asynccontextmanager
async def subscribed(client: Client, ship_id: str) -> AsyncIterator[AsyncIterator[RecordedEvent]]:
    """The events of one ship as they happen, attached when the block begins."""
    request = SubscribeRequest(filter=EventFilter(aggregate_ids=[ship_id]))
    async with aclosing(client.subscribe(request)) as responses:
        # The first response comes as soon as the stream has reached the head.
        await anext(responses)
        yield (event async for response in responses for event in response.events)


async def told(sentence: str, call: Awaitable[CommandReceipt]) -> CommandReceipt:
    """Sends a command and prints its receipt."""
    receipt = await call
    note = " · [yellow]duplicate[/]" if receipt.duplicate else ""
    console.print(
        f"  [green]✓[/] {sentence:<32} [dim]version {receipt.version}"
        f" · position {receipt.position}[/]{note}"
    )
    return receipt


async def refused(sentence: str, call: Awaitable[CommandReceipt]) -> None:
    """Sends a command that the rules refuse, and prints why."""
    try:
        await call
    except TidemarkError as error:
        console.print(
            f"  [red]✗[/] {sentence:<32} [red]{error.message}[/]"
            f"\n    [dim]{Code.Name(error.code)}, {error.reason}[/]"
        )
    else:
        raise SystemExit(f"Not refused: {sentence}")


def heading(text: str) -> None:
    """Begins a part of a story."""
    console.print(f"\n[bold]{text}[/]")


def print_events(events: list[RecordedEvent]) -> None:
    """Prints events, numbered."""
    for event in events:
        name = event.payload.type_url.rpartition(".")[2]
        time = event.occurred_at.ToDatetime().strftime("%H:%M:%S.%f")
        content = ", ".join(
            f"{field.replace('_', ' ')} {value}" for field, value in to_dict(event)["data"].items()
        )
        console.print(f"  [dim]{event.version}[/]  [cyan]{name:<18}[/]  {content}")
        console.print(f"     [dim]{time}  {event.event_id}[/]")


def described(ship: Ship) -> str:
    """A ship in a few words."""
    status = ShipStatus.Name(ship.status).removeprefix("SHIP_STATUS_").lower().replace("_", " ")
    port = f" in {ship.current_port}" if ship.current_port else ""
    cargo = ", ".join(f"{quantity} {item}" for item, quantity in sorted(ship.cargo.items()))
    return f"{ship.name}: [bold]{status}{port}[/], carrying {cargo or 'nothing'}"


def just_before(moment: Timestamp) -> Timestamp:
    """A microsecond earlier."""
    earlier = Timestamp()
    earlier.FromMicroseconds(moment.ToMicroseconds() - 1)
    return earlier


async def tell(connection: Connection) -> None:
    """Tells both stories with services that run."""
    async with Client(connection) as client:
        await a_users_balance(client)
        await a_ships_voyage(client)


async def main() -> int:
    """Starts the services, tells the stories, stops the services; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="tidemark-demo-") as name:
        folder = Path(name)
        logs = folder / "services.log"
        command = await start_command_service(folder, log=logs)
        try:
            query = await start_query_service(folder, command.address, log=logs)
            try:
                console.print(f"[dim]command service on {command.address}, a fresh SQLite log[/]")
                console.print(f"[dim]query service   on {query.address}, following it[/]\n")
                await tell(Connection(command.address, query.address))
            finally:
                query_code = await query.stop()
        finally:
            command_code = await command.stop()
        console.print(
            f"\n[dim]both services stopped, exit codes {command_code} and {query_code}[/]"
        )
    return command_code or query_code


if __name__ == "__main__":
    match sys.argv[1:]:
        case [commands, queries]:
            asyncio.run(tell(Connection(commands, queries)))
        case _:
            sys.exit(asyncio.run(main()))
