"""Two stories through two real services: a user's balance, and a ship's voyage."""

import asyncio
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from rich.console import Console
from rich.rule import Rule

from examples.services import start_command_service, start_query_service
from examples.stubs import Stub
from tidemark.v1 import event_pb2, query_pb2, ship_pb2, user_pb2
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt
from tidemark.v1.event_pb2 import RecordedEvent, SubscribeRequest
from tidemark.v1.query_pb2 import AsOf, ReplayRequest
from tidemark.v1.ship_pb2 import (
    DepartShip,
    DockShip,
    GetShipRequest,
    LoadCargo,
    RegisterShip,
    Ship,
    ShipStatus,
    UnloadCargo,
)
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser, GetUserRequest

console = Console(highlight=False, soft_wrap=True)


class Tidemark:
    """Both services, as their client sees them."""

    def __init__(self, commands: grpc.aio.Channel, queries: grpc.aio.Channel) -> None:
        users, ships = user_pb2.DESCRIPTOR, ship_pb2.DESCRIPTOR
        self.user_commands: Any = Stub(commands, users.services_by_name["UserCommandService"])
        self.user_queries: Any = Stub(queries, users.services_by_name["UserQueryService"])
        self.ship_commands: Any = Stub(commands, ships.services_by_name["ShipCommandService"])
        self.ship_queries: Any = Stub(queries, ships.services_by_name["ShipQueryService"])
        replay = query_pb2.DESCRIPTOR.services_by_name["ReplayService"]
        self.replay: Any = Stub(queries, replay)
        log = event_pb2.DESCRIPTOR.services_by_name["EventLogService"]
        self.log: Any = Stub(queries, log)

    async def history(self, aggregate_type: str, receipt: CommandReceipt) -> list[RecordedEvent]:
        """Every event of an aggregate, the receipt's included."""
        request = ReplayRequest(
            aggregate_type=aggregate_type,
            aggregate_id=receipt.aggregate_id,
            min_position=receipt.position,
        )
        return [response.event async for response in self.replay.Replay(request)]


async def a_users_balance(tidemark: Tidemark) -> None:
    """The first story."""
    console.print(Rule("[bold]1 · A user's balance", align="left", style="cyan"))
    send = tidemark.user_commands
    receipt = await told(
        "create test_user with 100", send.Create(CreateUser(username="test_user", balance=100))
    )
    user_id = receipt.aggregate_id
    change = ChangeUserBalance()
    for amount in (10, 250, -50):
        change = ChangeUserBalance(
            user_id=user_id,
            balance_change=amount,
            context=CommandContext(command_id=str(uuid.uuid4())),
        )
        receipt = await told(f"change the balance by {amount:+}", send.ChangeBalance(change))

    async def balance(as_of: AsOf | None = None) -> str:
        request = GetUserRequest(user_id=user_id, as_of=as_of, min_position=receipt.position)
        response = await tidemark.user_queries.GetUser(request)
        return f"balance [bold]{response.user.balance}[/], version {response.user.version}"

    heading("The state now")
    console.print(f"  {await balance()}")

    heading("Replayed, event by event")
    events = await tidemark.history("user", receipt)
    print_events(events)

    heading("As of the moment before the last change")
    console.print(f"  {await balance(AsOf(time=just_before(events[-1].occurred_at)))}")

    heading("More than there is")
    too_much = ChangeUserBalance(user_id=user_id, balance_change=-1000)
    await refused("change the balance by -1000", send.ChangeBalance(too_much))
    console.print(f"  nothing was written: {await balance()}")

    heading("The last command once more, under the same command_id")
    await told("change the balance by -50", send.ChangeBalance(change))
    console.print(f"  it had its effect once: {await balance()}")


async def a_ships_voyage(tidemark: Tidemark) -> None:
    """The second story."""
    console.print()
    console.print(Rule("[bold]2 · A ship's voyage", align="left", style="cyan"))
    ship_id = str(uuid.uuid4())
    send = tidemark.ship_commands
    async with subscribed(tidemark, ship_id) as live:
        await told(
            "register Pacific Explorer",
            send.Register(RegisterShip(ship_id=ship_id, name="Pacific Explorer")),
        )
        await told("dock in Singapore", send.Dock(DockShip(ship_id=ship_id, port="Singapore")))
        load = LoadCargo(ship_id=ship_id, item="electronics", quantity=500)
        await told("load 500 electronics", send.Load(load))
        await told("depart", send.Depart(DepartShip(ship_id=ship_id)))
        await told("dock in Hong Kong", send.Dock(DockShip(ship_id=ship_id, port="Hong Kong")))
        unload = UnloadCargo(ship_id=ship_id, item="electronics", quantity=200)
        receipt = await told("unload 200 electronics", send.Unload(unload))

        async def ship(as_of: AsOf | None = None) -> Ship:
            request = GetShipRequest(ship_id=ship_id, as_of=as_of, min_position=receipt.position)
            response = await tidemark.ship_queries.GetShip(request)
            found: Ship = response.ship
            return found

        heading("The state now")
        console.print(f"  {described(await ship())}")

        heading("The event log")
        events = await tidemark.history("ship", receipt)
        print_events(events)

        heading("As of each version")
        for version in range(1, receipt.version + 1):
            console.print(f"  [dim]{version}[/]  {described(await ship(AsOf(version=version)))}")

        heading("Departing twice")
        last = await told("depart", send.Depart(DepartShip(ship_id=ship_id)))
        await refused("depart", send.Depart(DepartShip(ship_id=ship_id)))

        heading("What a subscriber saw that was attached from the start")
        seen = [await anext(live) for _ in range(last.version)]
        is_same = seen == await tidemark.history("ship", last)
        console.print(
            f"  {len(seen)} events, live, "
            + ("[green]the same as the log has[/]" if is_same else "[red]NOT the same[/]")
        )
        if not is_same:
            raise SystemExit("The subscriber saw other events than the log has")


@asynccontextmanager
async def subscribed(
    tidemark: Tidemark, ship_id: str
) -> AsyncIterator[AsyncIterator[RecordedEvent]]:
    """The events of one ship as they happen, attached when the block begins."""
    request = SubscribeRequest(filter=event_pb2.EventFilter(aggregate_ids=[ship_id]))
    stream = tidemark.log.Subscribe(request)
    responses = aiter(stream)

    async def events() -> AsyncIterator[RecordedEvent]:
        async for response in responses:
            for event in response.events:
                yield event

    # The first response comes as soon as the stream has reached the head.
    await anext(responses)
    try:
        yield events()
    finally:
        stream.cancel()


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
    except grpc.aio.AioRpcError as error:
        info = error_details_pb2.ErrorInfo()
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both have
        reason = next(str(info.reason) for each in status.details if each.Unpack(info))
        console.print(
            f"  [red]✗[/] {sentence:<32} [red]{error.details()}[/]"
            f"\n    [dim]{error.code().name}, {reason}[/]"
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
            f"{field.name.replace('_', ' ')} {value}"
            for field, value in unpacked(event).ListFields()
        )
        console.print(f"  [dim]{event.version}[/]  [cyan]{name:<18}[/]  {content}")
        console.print(f"     [dim]{time}  {event.event_id}[/]")


def unpacked(event: RecordedEvent) -> Any:
    """The payload of an event, whichever of the two domains it is from."""
    name = event.payload.type_url.rpartition(".")[2]
    message: Any = getattr(user_pb2, name, None) or getattr(ship_pb2, name)
    return message.FromString(event.payload.value)


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


async def main() -> None:
    """Starts the services, tells the stories, stops the services."""
    with tempfile.TemporaryDirectory(prefix="tidemark-demo-") as name:
        folder = Path(name)
        logs = folder / "services.log"
        command = await start_command_service(folder, log=logs)
        try:
            query = await start_query_service(folder, command.address, log=logs)
            try:
                console.print(f"[dim]command service on {command.address}, a fresh SQLite log[/]")
                console.print(f"[dim]query service   on {query.address}, following it[/]\n")
                async with (
                    grpc.aio.insecure_channel(command.address) as commands,
                    grpc.aio.insecure_channel(query.address) as queries,
                ):
                    tidemark = Tidemark(commands, queries)
                    await a_users_balance(tidemark)
                    await a_ships_voyage(tidemark)
            finally:
                query_code = await query.stop()
        finally:
            command_code = await command.stop()
        console.print(
            f"\n[dim]both services stopped, exit codes {command_code} and {query_code}[/]"
        )
    sys.exit(command_code or query_code)


if __name__ == "__main__":
    asyncio.run(main())
