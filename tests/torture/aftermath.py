"""What is there when a run is over: every log, every list of every projection, and how all are."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

import grpc
import pytest
from google.protobuf.message import Message

import query_service.states
from query_service.verifying import verify_store
from shared.healthcheck import SERVING, health_of
from shared.log.sqlite.verifying import opened, verify_log
from shared.verification import Unreadable
from tests.history.recorded import Failure, History, LogCopy, Pages, Rebuild, Unknown, Views
from tests.history.timeline import AGGREGATES
from tests.services.caller import RPC_OF
from tests.services.deployment import CommandClient, QueryClient, tenant
from tests.services.histories import WholeLog
from tests.services.readable import keys_of
from tests.services.verifying import Findings
from tests.torture.recorder import failure_of
from tests.torture.service import KEPT_EVERY
from tests.torture.stage import Stage
from tests.torture.world import HOT, KNOWN, PORTS, TENANTS
from tidemark.v1.query_pb2 import (
    ListProjectionsRequest,
    ProjectionState,
    RebuildProjectionRequest,
)
from tidemark.v1.ship_pb2 import (
    SHIP_STATUS_DOCKED,
    ListPortCargoRequest,
    ListPortsRequest,
    ListShipsRequest,
)
from tidemark.v1.user_pb2 import ListBalanceChangesRequest, ListUsersRequest

PATIENCE_S = 15.0
PROJECTIONS = ("ships", "users")
SMALL_PAGE = 7
"""So that every list has several pages."""


async def survey(history: History, stage: Stage) -> list[str]:
    """Writes the logs and the views into the history.

    Returns:
        What is not as it should be, in sentences.
    """
    commands = CommandClient(stage.command.service.address)
    try:
        log = await WholeLog.of(commands)
        history.keys = await keys_of(commands, log.events)
    finally:
        await commands.channel.close()
    history.log = _copy("command", log)
    ailments = await _not_serving(stage)
    for party in stage.query_parties:
        queries = QueryClient(party.service.address)
        try:
            ailments += await _survey(
                history, party.name, queries, log.checkpoint.position, is_well=not ailments
            )
        finally:
            await queries.channel.close()
    return ailments + await asyncio.to_thread(_verified, stage)


def _verified(stage: Stage) -> list[str]:
    """What `verify` finds in the services' files."""
    findings = Findings()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query_service.states, "KEPT_EVERY", KEPT_EVERY)
        try:
            if stage.log.exists():
                with opened(stage.log) as db:
                    verify_log(db, AGGREGATES.values(), findings)
            for party in stage.query_parties:
                verify_store(stage.place / party.name, findings)
        except Unreadable as error:
            findings.find(str(error))
    return [f"verify: {each}" for each in findings.sentences]


async def _survey(
    history: History, server: str, queries: QueryClient, position: int, *, is_well: bool
) -> list[str]:
    """The same of one query service, which is not waited for if something is wrong already."""
    ailments: list[str] = []
    replica = await _replica(queries, position, PATIENCE_S if is_well else 0.0)
    history.replicas.append(_copy(server, replica))
    if replica.checkpoint.position < position:
        reached = replica.checkpoint.position
        ailments.append(f"The {server} service came no further than {reached} of {position}")
    elif is_well:
        await _look_at_views(history, server, queries, position, ailments)
    return ailments + await _not_live(queries)


async def rebuild(history: History, queries: QueryClient, name: str, server: str = "query") -> None:
    """Rebuilds a projection to the end.

    Args:
        history: where that is noted.
        queries: a client of the service.
        name: of the projection.
        server: name of the service.

    Raises:
        grpc.aio.AioRpcError: it came to none.
    """
    began = time.monotonic()
    failure: Failure | Unknown | None = Unknown("cancelled")
    try:
        request = RebuildProjectionRequest(name=name)
        async for _ in queries.projections.RebuildProjection(request, timeout=PATIENCE_S):
            pass
        failure = None
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error)
        raise
    finally:
        history.rebuilds.append(Rebuild(server, name, began, time.monotonic(), failure))


def _copy(server: str, log: WholeLog) -> LogCopy:
    return LogCopy(server, tuple(log.records), bytes(log.checkpoint.digest))


async def _replica(queries: QueryClient, position: int, patience_s: float) -> WholeLog:
    """The query service's log, once it has a position or has had time enough to get there."""
    log = await WholeLog.of(queries)
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            while log.checkpoint.position < position:
                await log.read_on(queries)
    return log


async def _look_at_views(
    history: History, server: str, queries: QueryClient, position: int, ailments: list[str]
) -> None:
    """Asks for all lists, has everything rebuilt, and asks again."""
    try:
        followed = await _views(queries, position)
        for name in PROJECTIONS:
            await rebuild(history, queries, name, server)
        history.views.append(Views(server, followed, await _views(queries, position)))
    except grpc.aio.AioRpcError as error:
        ailments.append(f"The projections do not answer: {error.code().name} {error.details()}")


async def _views(queries: QueryClient, position: int) -> tuple[Pages, ...]:
    return tuple(
        [
            await _pages(queries, tenant_id, request)
            for tenant_id in TENANTS
            for request in _lists(position)
        ]
    )


def _lists(position: int) -> Iterable[Message]:
    yield ListShipsRequest(page_size=SMALL_PAGE, min_position=position)
    yield ListShipsRequest(status=SHIP_STATUS_DOCKED, min_position=position)
    yield ListUsersRequest(page_size=SMALL_PAGE, min_position=position)
    yield ListPortsRequest(page_size=2, min_position=position)
    for port in PORTS:
        yield ListShipsRequest(port=port, page_size=SMALL_PAGE, min_position=position)
        yield ListPortCargoRequest(port=port, min_position=position)
    for user_id in (*HOT, KNOWN[-1]):
        yield ListBalanceChangesRequest(user_id=user_id, page_size=20, min_position=position)


async def _pages(queries: QueryClient, tenant_id: str, request: Message) -> Pages:
    stub, method = RPC_OF[request.DESCRIPTOR.full_name]
    call = getattr(getattr(queries, stub), method)
    responses = []
    page = request
    while True:
        response = await call(page, metadata=tenant(tenant_id), timeout=PATIENCE_S)
        responses.append(response)
        if not response.next_page_token:
            return Pages(tenant_id, request, tuple(responses))
        following = type(request)()
        following.CopyFrom(request)
        following.MergeFrom(type(request)(page_token=response.next_page_token))
        page = following


async def _not_serving(stage: Stage) -> list[str]:
    found = []
    for party in stage.parties:
        health = await health_of(party.service.address)
        if health != SERVING:
            found.append(f"The {party.name} service is {health}")
    return found


async def _not_live(queries: QueryClient) -> list[str]:
    request = ListProjectionsRequest()
    try:
        answer = await queries.projections.ListProjections(request, timeout=PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        return [f"ListProjections: {error.code().name}"]
    return [
        f"The projection {each.name} is {ProjectionState.Name(each.state)}: {each.fault}"
        for each in answer.projections
        if each.state != ProjectionState.PROJECTION_STATE_LIVE
    ]
