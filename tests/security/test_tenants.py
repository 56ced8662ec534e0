"""The same ids in two tenants never meet: whatever one is answered, nothing in it is the other's.

Each does the same under the same ids, command_ids and correlation_ids, with words of its own in
every text. There is more of it than a snapshot and a kept state need, and the command service
has forgotten what it had in memory.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from query_service.pages import Cursor
from query_service.states import KEPT_EVERY
from shared.aggregates.aggregate import pack
from tests.security.secured import Secured
from tests.services.commanding import CALL_S, Failure, failure
from tests.services.deployment import CommandClient, QueryClient
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt, ExecuteRequest
from tidemark.v1.event_pb2 import EventFilter, SubscribeRequest
from tidemark.v1.query_pb2 import AsOf, ReplayRequest
from tidemark.v1.ship_pb2 import (
    DockShip,
    GetShipRequest,
    ListPortCargoRequest,
    ListPortsRequest,
    ListShipsRequest,
    LoadCargo,
    RegisterShip,
    WatchShipRequest,
)
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    GetUserRequest,
    ListBalanceChangesRequest,
    ListUsersRequest,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

TENANTS = {"acme": "obsidian", "zenith": "sapphire"}
"""And the word that each has everywhere."""

SHIPS = ("aurora", "ever")
COMMANDS = KEPT_EVERY + 20
ID = UUID(int=7)
CORRELATION = "inventory"


@dataclass
class Tenant:
    """Somebody of one tenant."""

    tenant_id: str
    word: str
    commands: CommandClient
    queries: QueryClient
    position: int = 0

    async def execute(self, *commands: Message) -> list[CommandReceipt]:
        """Executes commands, none of which may be refused."""
        request = ExecuteRequest(commands=[pack(command) for command in commands])
        response = await self.commands.bulk.Execute(iter([request]), timeout=CALL_S).read()
        assert [each.error.message for each in response.results if each.HasField("error")] == []
        receipts = [each.receipt for each in response.results]
        self.position = max(self.position, *(receipt.position for receipt in receipts))
        return receipts

    def history(self) -> list[Message]:
        """The same as the other's, but for the words."""
        context = CommandContext(correlation_id=CORRELATION)
        commands: list[Message] = [
            CreateUser(user_id="ada", username=f"Ada {self.word}", balance=1000, context=context),
            ChangeUserBalance(user_id="ada", balance_change=1),
        ]
        for ship_id in SHIPS:
            name = f"{ship_id} {self.word}"
            commands.append(RegisterShip(ship_id=ship_id, name=name, context=context))
            commands.append(DockShip(ship_id=ship_id, port=f"Kiel {self.word}"))
        load = LoadCargo(ship_id="ever", item=f"item {self.word}", quantity=len(self.word))
        return [*commands, *[load] * COMMANDS]

    async def answers(self) -> list[Message]:
        """Whatever can be asked for, of everything that there is."""
        ships, users, replay = self.queries.ships, self.queries.users, self.queries.replay
        port = f"Kiel {self.word}"
        at = self.position
        early = AsOf(version=1)
        found = [
            await ships.GetShip(GetShipRequest(ship_id="ever", min_position=at), timeout=CALL_S),
            await ships.GetShip(
                GetShipRequest(ship_id="ever", as_of=AsOf(version=KEPT_EVERY + 1), min_position=at),
                timeout=CALL_S,
            ),
            await ships.GetShip(GetShipRequest(ship_id="ever", as_of=early), timeout=CALL_S),
            await ships.ListShips(ListShipsRequest(min_position=at), timeout=CALL_S),
            await ships.ListShips(ListShipsRequest(port=port, min_position=at), timeout=CALL_S),
            await ships.ListPorts(ListPortsRequest(min_position=at), timeout=CALL_S),
            await ships.ListPortCargo(
                ListPortCargoRequest(port=port, min_position=at), timeout=CALL_S
            ),
            await ships.WatchShip(
                WatchShipRequest(ship_id="ever", min_position=at), timeout=CALL_S
            ).read(),
            await users.GetUser(GetUserRequest(user_id="ada", min_position=at), timeout=CALL_S),
            await users.ListUsers(ListUsersRequest(min_position=at), timeout=CALL_S),
        ]
        request = ReplayRequest(
            aggregate_type="ship", aggregate_id="ever", include_state=True, min_position=at
        )
        found += [each async for each in replay.Replay(request, timeout=CALL_S)]
        for log in (self.commands.log, self.queries.log):
            for selection in FILTERS:
                subscribe = SubscribeRequest(filter=selection, stop_at_head=True)
                events = [
                    event
                    async for page in log.Subscribe(subscribe, timeout=CALL_S)
                    for event in page.events
                ]
                assert {event.tenant_id for event in events} == {self.tenant_id}
                found += events
        return found


FILTERS = (
    EventFilter(),
    EventFilter(aggregate_ids=["ever"]),
    EventFilter(aggregate_types=["ship"]),
    EventFilter(event_types=["tidemark.v1.CargoLoaded"]),
    EventFilter(correlation_ids=[CORRELATION]),
    EventFilter(aggregate_ids=["ever"], aggregate_types=["ship"], correlation_ids=[CORRELATION]),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tenants(both: Secured) -> AsyncIterator[tuple[Tenant, Tenant]]:
    """Two, with their histories."""
    found = []
    for tenant_id, word in TENANTS.items():
        access = both.bearer(tenants=[tenant_id], scope="read write")
        found.append(Tenant(tenant_id, word, both.commands(access), both.queries(access)))
    for each in found:
        await each.execute(*each.history())
    await both.restart_command()
    acme, zenith = found
    yield acme, zenith
    for each in found:
        await each.commands.channel.close()
        await each.queries.channel.close()


async def test_nothing_that_a_tenant_reads_is_the_others(tenants: tuple[Tenant, Tenant]) -> None:
    for tenant, other in (tenants, tenants[::-1]):
        answers = await tenant.answers()
        assert len(answers) > 2 * COMMANDS
        for answer in answers:
            raw = answer.SerializeToString()
            assert other.word.encode() not in raw
            assert other.tenant_id.encode() not in raw
        assert any(tenant.word.encode() in each.SerializeToString() for each in answers)


async def test_states_that_were_loaded_from_snapshots_are_each_tenants_own(
    tenants: tuple[Tenant, Tenant],
) -> None:
    for tenant in tenants:
        item = f"item {tenant.word}"
        loaded = LoadCargo(ship_id="ever", item=item, quantity=1)
        [receipt] = await tenant.execute(loaded)
        request = GetShipRequest(ship_id="ever", min_position=receipt.position)
        ship = (await tenant.queries.ships.GetShip(request, timeout=CALL_S)).ship
        assert dict(ship.cargo) == {item: COMMANDS * len(tenant.word) + 1}
        assert ship.version == receipt.version == COMMANDS + 3


async def test_one_command_id_has_its_effect_in_each_tenant(
    tenants: tuple[Tenant, Tenant],
) -> None:
    context = CommandContext(command_id=str(ID))
    command = ChangeUserBalance(user_id="ada", balance_change=5, context=context)
    first = [(await tenant.execute(command))[0] for tenant in tenants]
    again = [(await tenant.execute(command))[0] for tenant in tenants]

    assert [each.duplicate for each in first] == [False, False]
    assert [each.duplicate for each in again] == [True, True]
    assert [each.position for each in again] == [each.position for each in first]
    assert first[0].position != first[1].position


async def test_refusals_speak_of_the_callers_own_state(tenants: tuple[Tenant, Tenant]) -> None:
    acme, zenith = tenants
    only_there = RegisterShip(ship_id="only zenith's", name="Sapphire")
    await zenith.execute(only_there)

    async def refusal(command: Message, rpc: str) -> Failure:
        return await failure(getattr(acme.commands.ships, rpc)(command, timeout=CALL_S))

    missing = await refusal(DockShip(ship_id="only zenith's", port="Kiel"), "Dock")
    unknown = await refusal(DockShip(ship_id="only nobody's", port="Kiel"), "Dock")
    context = CommandContext(expected_version=1)
    stale = await refusal(DockShip(ship_id="aurora", port="Kiel", context=context), "Dock")
    exists = await refusal(RegisterShip(ship_id="aurora", name="Aurora"), "Register")

    assert (missing.code, missing.message) == (unknown.code, unknown.message)
    assert missing.code is grpc.StatusCode.NOT_FOUND
    assert stale.metadata["actual_version"] == "2"
    for each in (missing, stale, exists):
        assert zenith.word not in f"{each}"
        assert not {"zenith", "sapphire"} & set(each.metadata.values())


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("ships.ListShips", ListShipsRequest(page_size=1)),
        ("ships.ListPorts", ListPortsRequest(page_size=1)),
        ("users.ListUsers", ListUsersRequest(page_size=1)),
        ("users.ListBalanceChanges", ListBalanceChangesRequest(user_id="ada", page_size=1)),
    ],
)
async def test_a_page_token_shows_nobody_more_than_their_own_list(
    tenants: tuple[Tenant, Tenant], rpc: str, request_: Any
) -> None:
    acme, zenith = tenants
    service, _, name = rpc.partition(".")

    async def page(tenant: Tenant, token: str) -> Message:
        asked = type(request_)()
        asked.CopyFrom(request_)
        asked.page_token, asked.min_position = token, tenant.position
        listed: Message = await getattr(getattr(tenant.queries, service), name)(
            asked, timeout=CALL_S
        )
        return listed

    first: str | int = 2**62 if name == "ListBalanceChanges" else ""
    key: str | int = 2**61 if name == "ListBalanceChanges" else "a"
    of_zenith = Cursor(request_, "zenith", first).token(key)
    made_up = Cursor(request_, "acme", first).token(key)
    refused = await failure(page(acme, of_zenith))
    shown = await page(acme, made_up)
    theirs = await page(zenith, of_zenith)

    assert refused.fields == ["page_token"]
    assert zenith.word.encode() not in shown.SerializeToString()
    assert acme.word.encode() not in theirs.SerializeToString()
