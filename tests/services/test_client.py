"""The Python client: what it takes off its caller's hands."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import uuid4

import pytest
import pytest_asyncio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from shared.client import Client
from shared.client.connection import Connection
from shared.client.errors import DeadlineExceeded
from shared.errors import (
    AlreadyExists,
    Conflict,
    DataLoss,
    InvalidFields,
    NotFound,
    Refused,
    TidemarkError,
    Unavailable,
)
from tests.services.clients import connection_to, failure, to_count
from tests.services.deployment import Deployment
from tests.services.subscribing import history, reached
from tests.torture.proxy import Mode, Proxy
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt, ExecuteRequest
from tidemark.v1.event_pb2 import EventFilter, SubscribeRequest
from tidemark.v1.query_pb2 import (
    AsOf,
    ListProjectionsRequest,
    ListProjectionsResponse,
    ReplayRequest,
    ReplayResponse,
)
from tidemark.v1.ship_pb2 import (
    DepartShip,
    DockShip,
    GetShipRequest,
    GetShipResponse,
    LoadCargo,
    RegisterShip,
    UnloadCargo,
)
from tidemark.v1.user_pb2 import CreateUser

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


@pytest_asyncio.fixture(loop_scope="module")
async def client(shared: Deployment, tenant_id: str) -> AsyncIterator[Client]:
    """Of a tenant of its own."""
    async with Client(connection_to(shared, tenant_id=tenant_id)) as one:
        yield one


async def test_a_query_sees_what_its_client_did(client: Client, ship_id: str) -> None:
    await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))
    for port in ("Kiel", "Oslo", "Riga"):
        receipt = await client.execute(DockShip(ship_id=ship_id, port=port))
        response = await client.ask(GetShipRequest(ship_id=ship_id), GetShipResponse)

        assert response.ship.current_port == port
        assert response.position >= receipt.position == client.position


async def test_a_stream_has_what_its_client_did(client: Client, ship_id: str) -> None:
    await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))
    await client.execute(DockShip(ship_id=ship_id, port="Kiel"))

    request = ReplayRequest(aggregate_type="ship", aggregate_id=ship_id)
    events = [response.event async for response in client.stream(request, ReplayResponse)]

    assert [event.version for event in events] == [1, 2]


async def test_a_command_gets_an_id_and_the_callers_message_stays_as_it_was(
    client: Client, ship_id: str
) -> None:
    command = RegisterShip(ship_id=ship_id, name="Ever")

    receipt = await client.execute(command)

    assert receipt.command_id
    assert not command.HasField("context")


async def test_the_callers_own_command_id_is_kept(client: Client, ship_id: str) -> None:
    context = CommandContext(command_id=str(uuid4()))
    command = RegisterShip(ship_id=ship_id, name="Ever", context=context)

    receipts = [await client.execute(command) for _ in range(2)]

    assert [each.command_id for each in receipts] == [context.command_id] * 2
    assert [each.duplicate for each in receipts] == [False, True]


async def test_each_tenant_has_its_own(shared: Deployment, client: Client, ship_id: str) -> None:
    await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))

    async with Client(connection_to(shared, tenant_id="another")) as stranger:
        error = await failure(stranger.ask(GetShipRequest(ship_id=ship_id), GetShipResponse))

    assert isinstance(error, NotFound)


@pytest.mark.parametrize(
    ("command", "kind", "reason", "message"),
    [
        (DockShip(ship_id="?", port="Kiel"), NotFound, "SHIP_NOT_FOUND", "There is no such ship"),
        (RegisterShip(ship_id="a", name="b"), AlreadyExists, "SHIP_ALREADY_REGISTERED", ""),
        (DepartShip(ship_id="a"), Refused, "SHIP_NOT_DOCKED", "Ship is not docked at any port"),
        (DockShip(ship_id="a"), InvalidFields, "INVALID_FIELD", "port: must not be empty"),
    ],
)
async def test_a_refusal_has_its_class_its_reason_and_its_sentence(
    client: Client, command: Message, kind: type[TidemarkError], reason: str, message: str
) -> None:
    await client.execute(RegisterShip(ship_id="a", name="Ever"))

    error = await failure(client.execute(command))

    assert type(error) is kind
    assert error.reason == reason
    assert message in error.message


async def test_a_refusal_has_its_metadata(client: Client, ship_id: str) -> None:
    await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))
    await client.execute(DockShip(ship_id=ship_id, port="Kiel"))
    await client.execute(LoadCargo(ship_id=ship_id, item="silk", quantity=3))

    too_much = await failure(client.execute(UnloadCargo(ship_id=ship_id, item="silk", quantity=4)))
    context = CommandContext(expected_version=1)
    too_late = await failure(client.execute(DepartShip(ship_id=ship_id, context=context)))

    assert too_much.reason == "NOT_ENOUGH_CARGO"
    assert too_much.metadata["aboard"] == "3"
    assert isinstance(too_late, Conflict)
    assert too_late.metadata["actual_version"] == "3"


async def test_every_field_that_is_wrong_is_named(client: Client) -> None:
    error = await failure(client.execute(LoadCargo(ship_id="", item="", quantity=0)))

    assert isinstance(error, InvalidFields)
    assert [violation.field for violation in error.violations] == ["ship_id", "item", "quantity"]


async def test_a_stream_that_is_refused_raises_it(client: Client) -> None:
    request = ReplayRequest(aggregate_type="ship", aggregate_id="nobody's")

    with pytest.raises(NotFound, match="SHIP_NOT_FOUND"):
        await anext(client.stream(request, ReplayResponse))


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (ExecuteRequest(), CommandReceipt),
        (GetShipRequest(), ReplayResponse),
        (GetShipResponse(), GetShipResponse),
    ],
)
async def test_what_no_rpc_takes_or_answers_is_a_mistake(
    client: Client, request_: Message, answer: type[Message]
) -> None:
    with pytest.raises(TypeError):
        await client.ask(request_, answer)
    with pytest.raises(TypeError):
        await client.execute(request_)


async def test_a_command_whose_answer_was_lost_is_found_to_have_taken_effect(
    shared: Deployment, ship_id: str
) -> None:
    async with Proxy.to(shared.command.address) as proxy:
        through = Connection(proxy.address, shared.query.address)
        async with Client(through) as client:
            await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))
            proxy.delay_s = 0.5
            waiting = asyncio.create_task(client.execute(DockShip(ship_id=ship_id, port="Kiel")))
            while len(await history(shared.commands.log, ship_id)) < 2:  # noqa: ASYNC110  # a process's doing
                await asyncio.sleep(0.01)
            proxy.delay_s = 0
            proxy.set(Mode.CUT)
            proxy.set(Mode.PASS)

            receipt = await waiting

    assert (receipt.version, receipt.duplicate) == (2, True)
    assert len(await history(shared.commands.log, ship_id)) == 2


async def test_a_query_waits_for_a_projection_no_longer_than_it_may(
    client: Client, ship_id: str
) -> None:
    await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))
    client.position += 1_000_000
    began = time.monotonic()

    error = await failure(
        client.ask(GetShipRequest(ship_id=ship_id), GetShipResponse, timeout_s=0.5)
    )

    assert isinstance(error, Unavailable | DeadlineExceeded)
    assert time.monotonic() - began < 2


async def test_a_service_that_is_not_there_is_unavailable_when_the_time_is_over() -> None:
    nowhere = Connection("127.0.0.1:1", "127.0.0.1:1")
    async with Client(nowhere, timeout_s=0.3) as client:
        commanded = await failure(client.execute(CreateUser(username="ada")))
        asked = await failure(client.ask(ListProjectionsRequest(), ListProjectionsResponse))
        with pytest.raises(Unavailable):
            await anext(client.subscribe())

    assert isinstance(commanded, Unavailable)
    assert isinstance(asked, Unavailable)


async def test_a_subscription_notices_that_its_connection_is_dead(
    shared: Deployment, client: Client, ship_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.client.subscription.SILENCE_S", 0.3)
    connection = client.connection
    receipt = await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))
    await reached(shared.queries.log, receipt.position)
    async with Proxy.to(shared.query.address) as proxy:
        through = Connection(connection.commands, proxy.address, connection.tenant_id)
        async with Client(through) as reader, aclosing(reader.subscribe()) as responses:
            await to_count(responses, 1)
            proxy.set(Mode.SILENT)
            await client.execute(DockShip(ship_id=ship_id, port="Kiel"))
            waiting = asyncio.create_task(to_count(responses, 1))
            while proxy.connections < 2:  # noqa: ASYNC110  # another's doing
                await asyncio.sleep(0.01)
            proxy.set(Mode.PASS)

            [event] = await waiting

    assert event.version == 2


async def test_a_checkpoint_is_where_another_subscription_goes_on(
    client: Client, ship_id: str
) -> None:
    for number in range(3):
        await client.execute(CreateUser(username=f"user {number}"))
    request = SubscribeRequest(max_batch_size=1)
    async with aclosing(client.subscribe(request, every_tenant=True)) as responses:
        first = await anext(responses)

    resumed = SubscribeRequest(
        after_position=first.checkpoint.position, after_digest=first.checkpoint.digest
    )
    async with aclosing(client.subscribe(resumed, every_tenant=True)) as responses:
        [second] = (await to_count(responses, 1))[:1]

    assert second.position == first.events[0].position + 1


async def test_a_subscription_of_another_log_ends(client: Client) -> None:
    await client.execute(CreateUser(username="ada"))
    request = SubscribeRequest(after_position=1, after_digest=bytes(32))

    with pytest.raises(DataLoss, match="LOG_DIVERGED"):
        await anext(client.subscribe(request, every_tenant=True))


async def test_a_subscription_selects_starts_and_stops_as_it_is_told(
    shared: Deployment, client: Client, ship_id: str
) -> None:
    receipt = await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))
    await client.execute(CreateUser(username="ada"))
    await reached(shared.queries.log, client.position)
    filtered = SubscribeRequest(stop_at_head=True, filter=EventFilter(aggregate_types=["ship"]))

    events = [event async for each in client.subscribe(filtered) for event in each.events]
    from_head = client.subscribe(SubscribeRequest(from_head=Empty()))

    assert [event.position for event in events] == [receipt.position]
    async with aclosing(from_head) as responses:
        assert list((await anext(responses)).events) == []
        last = await client.execute(DockShip(ship_id=ship_id, port="Kiel"))
        assert [event.position for event in await to_count(responses, 1)] == [last.position]


async def test_time_travel_is_asked_for_as_the_contract_has_it(
    client: Client, ship_id: str
) -> None:
    await client.execute(RegisterShip(ship_id=ship_id, name="Ever"))
    await client.execute(DockShip(ship_id=ship_id, port="Kiel"))

    request = GetShipRequest(ship_id=ship_id, as_of=AsOf(version=1))
    response = await client.ask(request, GetShipResponse)

    assert response.ship.current_port == ""
