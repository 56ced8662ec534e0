"""What a caller's credentials mean: for events, for tenants, and for streams when they end."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2

from examples.dev_credentials import make, upstream_options, write_private
from examples.services import start_query_service
from shared.aggregates.aggregate import pack
from shared.client.stubs import Stub
from shared.grpc_services import CHANNELZ, REFLECTION
from shared.security.tokens import LEEWAY_S
from tests.security.secured import SPIFFE, Secured, secured
from tests.services.access import Access
from tests.services.commanding import CALL_S, Failure, failure, of
from tests.services.deployment import QueryClient
from tests.services.subscribing import reached
from tests.services.test_processes import arguments_of, assert_failed_with_a_sentence, ended
from tidemark.v1.command_pb2 import ExecuteRequest
from tidemark.v1.event_pb2 import EventFilter, SubscribeRequest
from tidemark.v1.query_pb2 import ListProjectionsRequest
from tidemark.v1.ship_pb2 import (
    DepartShip,
    DockShip,
    GetShipRequest,
    RegisterShip,
    WatchShipRequest,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

REGISTER = RegisterShip(name="Ever")
SCOPES = "read write"
EXPIRED = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")


def soon() -> int:
    """An exp with which a token is taken for two or three seconds yet."""
    return int(time.time() - LEEWAY_S) + 3


async def end_of(stream: Any) -> Failure:
    """What a stream ends with, which has to have begun well."""
    responses = []

    async def read() -> None:
        while (response := await stream.read()) is not grpc.aio.EOF:
            responses.append(response)

    ended_by = await failure(read())
    assert responses
    return ended_by


async def test_events_name_their_actor(both: Secured, ship_id: str) -> None:
    somebody = both.commands(both.bearer(sub="harbour master", scope=SCOPES))
    owner = both.commands(Access(both.tls("writer")))
    dock = ExecuteRequest(commands=[pack(of(ship_id, DockShip(port="Kiel")))])

    await somebody.ships.Register(of(ship_id, REGISTER), timeout=CALL_S)
    await somebody.bulk.Execute(iter([dock]), timeout=CALL_S).read()
    await owner.ships.Depart(of(ship_id, DepartShip()), timeout=CALL_S)

    request = SubscribeRequest(filter=EventFilter(aggregate_ids=[ship_id]), stop_at_head=True)
    page = await somebody.log.Subscribe(request, timeout=CALL_S).read()
    for client in (somebody, owner):
        await client.channel.close()
    assert [(event.tenant_id, event.actor) for event in page.events] == [
        ("acme", "harbour master"),
        ("acme", "harbour master"),
        ("acme", f"{SPIFFE}writer"),
    ]


async def test_who_has_several_tenants_has_to_say_which(both: Secured, ship_id: str) -> None:
    client = both.commands(both.bearer(tenants=["acme", "zenith"], scope=SCOPES))
    register = of(ship_id, REGISTER)

    unsaid = await failure(client.ships.Register(register, timeout=CALL_S))
    for tenant_id in ("acme", "zenith"):
        header = (("x-tenant-id", tenant_id),)
        receipt = await client.ships.Register(register, metadata=header, timeout=CALL_S)
        assert receipt.version == 1

    await client.channel.close()
    assert (unsaid.code, unsaid.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["x-tenant-id"])


async def test_what_another_tenant_has_and_what_nobody_has_is_refused_in_the_same_words(
    both: Secured, ship_id: str
) -> None:
    zenith = both.commands(both.bearer(tenants=["zenith"], scope=SCOPES))
    receipt = await zenith.ships.Register(of(ship_id, REGISTER), timeout=CALL_S)
    acme = both.queries(both.bearer())

    async def asked(tenant_id: str, asked_id: str) -> Failure:
        request = GetShipRequest(ship_id=asked_id, min_position=receipt.position)
        header = (("x-tenant-id", tenant_id),) if tenant_id else ()
        return await failure(acme.ships.GetShip(request, metadata=header, timeout=CALL_S))

    answers = {
        tenant_id: [await asked(tenant_id, each) for each in (ship_id, "nobody's")]
        for tenant_id in ("", "zenith", "nowhere")
    }

    for client in (zenith, acme):
        await client.channel.close()
    assert [each.reason for each in answers[""]] == ["SHIP_NOT_FOUND"] * 2
    assert answers[""][0] == answers[""][1]
    assert {each.reason for each in answers["zenith"]} == {"TENANT_FORBIDDEN"}
    assert answers["zenith"] == answers["nowhere"]


async def test_every_tenant_is_for_an_administrator_of_every_tenant(
    both: Secured, ship_id: str
) -> None:
    writer = both.commands(both.bearer(scope=SCOPES))
    receipt = await writer.ships.Register(of(ship_id, REGISTER), timeout=CALL_S)
    replica = both.queries(Access(both.tls("replica")))

    await reached(replica.log, receipt.position)
    asked = replica.ships.GetShip(
        GetShipRequest(ship_id=ship_id), metadata=(("x-tenant-id", "*"),), timeout=CALL_S
    )

    assert (await failure(asked)).fields == ["x-tenant-id"]
    for client in (writer, replica):
        await client.channel.close()


async def test_a_token_that_expires_ends_its_streams(both: Secured, ship_id: str) -> None:
    lasting = both.commands(both.bearer(scope=SCOPES))
    receipt = await lasting.ships.Register(of(ship_id, REGISTER), timeout=CALL_S)
    access = both.bearer(scope=SCOPES, exp=soon())
    commands, queries = both.commands(access), both.queries(access)
    never = asyncio.Event()

    async def requests() -> AsyncIterator[ExecuteRequest]:
        yield ExecuteRequest(commands=[pack(of(ship_id, DockShip(port="Kiel")))])
        await never.wait()

    watch = WatchShipRequest(ship_id=ship_id, min_position=receipt.position)
    ends = await asyncio.gather(
        end_of(commands.log.Subscribe(SubscribeRequest())),
        end_of(queries.log.Subscribe(SubscribeRequest())),
        end_of(queries.ships.WatchShip(watch)),
        end_of(commands.bulk.Execute(requests())),
    )
    afterwards = await failure(commands.ships.Register(of(ship_id, REGISTER), timeout=CALL_S))

    for client in (lasting, commands, queries):
        await client.channel.close()
    assert [(each.code, each.reason) for each in (*ends, afterwards)] == [EXPIRED] * 5


async def test_a_certificate_that_expires_ends_its_streams(both: Secured) -> None:
    both.issue("reader", timedelta(seconds=3))
    queries = both.queries(Access(both.tls("reader")))

    ended_by = await end_of(queries.log.Subscribe(SubscribeRequest()))

    both.issue("reader")
    await queries.channel.close()
    expired = (grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_EXPIRED")
    assert (ended_by.code, ended_by.reason) == expired


async def test_a_query_service_follows_with_a_token_and_takes_a_renewed_one(
    both: Secured, ship_id: str, tmp_path: Path
) -> None:
    def token(**claims: Any) -> str:
        return both.issuer.token(sub="replica", tenants=["*"], scope="read admin", **claims)

    write_private(tmp_path / "token", token(exp=int(time.time() - 2 * LEEWAY_S)))
    upstream = ["--upstream-token", str(tmp_path / "token"), *upstream_options(both.credentials)]
    log = tmp_path / "log"
    query = await start_query_service(
        tmp_path, both.command.address, "127.0.0.1:0", *upstream, log=log
    )
    queries = QueryClient(query.address)
    writer = both.commands(both.bearer(scope=SCOPES))
    try:
        async with asyncio.timeout(CALL_S):
            while "The token has expired" not in log.read_text():  # noqa: ASYNC110  # another process's
                await asyncio.sleep(0.02)
        write_private(tmp_path / "token", token())
        receipt = await writer.ships.Register(of(ship_id, REGISTER), timeout=CALL_S)
        await reached(queries.log, receipt.position)
    finally:
        for client in (queries, writer):
            await client.channel.close()
        await query.stop()


async def test_channelz_tells_an_administrator_of_the_server(both: Secured) -> None:
    channel = Access(both.tls("administrator")).channel(both.query.address)
    stub: Any = Stub(channel, CHANNELZ)
    servers = await stub.GetServers(channelz_pb2.GetServersRequest(), timeout=CALL_S)
    unknown = channelz_pb2.GetServerRequest(server_id=9999)
    missing = await failure(stub.GetServer(unknown, timeout=CALL_S))
    await channel.close()

    assert len(servers.server) == 1
    assert missing.code is grpc.StatusCode.NOT_FOUND


async def test_reflection_and_channelz_can_be_switched_off(tmp_path: Path) -> None:
    async with secured(tmp_path, "--no-reflection") as services:
        access = services.bearer(scope="read write admin")
        channel = access.channel(services.command.address)
        for service, rpc in ((REFLECTION, "ServerReflectionInfo"), (CHANNELZ, "GetServers")):
            call: Any = channel.unary_unary(f"/{service.full_name}/{rpc}")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"", metadata=access.metadata, timeout=CALL_S)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await channel.close()


async def test_an_administrator_sees_the_projections_whatever_their_tenants(both: Secured) -> None:
    queries = both.queries(both.bearer(tenants=[], scope="admin"))

    listed = await queries.projections.ListProjections(ListProjectionsRequest(), timeout=CALL_S)

    await queries.channel.close()
    assert {each.name for each in listed.projections} == {"ships", "users"}


async def test_tls_alone_does_not_let_a_service_listen_for_other_machines(tmp_path: Path) -> None:
    make(tmp_path)
    tls = ["--tls-cert", "server.pem", "--tls-key", "server.key"]
    arguments = [*arguments_of("command_service", tmp_path / "data"), "--listen", "0.0.0.0:0"]

    process = await ended("command_service", "serve", *arguments, *tls, folder=tmp_path)

    assert_failed_with_a_sentence(process, 1, "--jwks", "--identities", "--insecure")
