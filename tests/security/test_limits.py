"""What a caller may have at once, and how a call that is too much is answered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from examples.dev_credentials import AUDIENCE, ISSUER, TokenIssuer, jwk_set
from shared.call import Call
from shared.client.stubs import Stub
from shared.grpc_services import MAX_HEALTH_NAME_BYTES
from shared.options import ServerOptions
from shared.rpc import methods_of
from shared.server import MAX_METADATA_BYTES, Server
from tests.security.secured import authorization
from tests.services.commanding import CALL_S, Failure, failure, rpc_error, send_all
from tests.services.deployment import PROJECTIONS, Deployment
from tests.services.health import HEALTH, SERVING
from tidemark.v1.query_pb2 import (
    ListProjectionsRequest,
    ListProjectionsResponse,
    RebuildProjectionRequest,
    RebuildProjectionResponse,
    ReplayRequest,
)
from tidemark.v1.ship_pb2 import DockShip, RegisterShip

ISSUED_BY = TokenIssuer("dev")


class Patient:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.asked = asyncio.Semaphore(0)

    async def list_projections(self, _request: Message, _call: Call) -> Message:
        self.asked.release()
        await self.may_answer.wait()
        return ListProjectionsResponse()

    async def rebuild_projection(self, _request: Message, call: Call) -> None:
        await call.send(RebuildProjectionResponse())
        await self.may_answer.wait()


@asynccontextmanager
async def served(folder: Path, **limits: Any) -> AsyncIterator[tuple[Patient, Any]]:
    """A server of this process with these limits, which asks callers who they are."""
    async with connected(folder, **limits) as (patient, channel):
        yield patient, Stub(channel, PROJECTIONS)


@asynccontextmanager
async def connected(folder: Path, **limits: Any) -> AsyncIterator[tuple[Patient, grpc.aio.Channel]]:
    """The same, for whatever is asked of it."""
    file = folder / "jwks.json"
    file.write_text(jwk_set(ISSUED_BY))
    options = ServerOptions(jwks=str(file), token_issuer=ISSUER, token_audience=AUDIENCE, **limits)
    patient = Patient()
    async with Server("127.0.0.1:0", options) as server:
        server.add(PROJECTIONS, methods_of(patient))
        address = await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            yield patient, channel


def caller(name: str, **headers: str) -> dict[str, Any]:
    """Who calls, and how long they wait."""
    token = ISSUED_BY.token(sub=name, scope="admin")
    return {"metadata": (*authorization(token), *headers.items()), "timeout": CALL_S}


async def test_a_caller_has_only_so_many_calls_at_once_and_others_have_theirs(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, max_calls_per_caller=2) as (patient, stub):
        asked = ListProjectionsRequest()
        calls = [_begun(stub.ListProjections(asked, **caller(name))) for name in ("a", "a")]
        for _ in calls:
            await patient.asked.acquire()

        too_many = await failure(stub.ListProjections(asked, **caller("a")))
        calls.append(_begun(stub.ListProjections(asked, **caller("b"))))
        await patient.asked.acquire()
        patient.may_answer.set()
        await asyncio.gather(*calls)
        await stub.ListProjections(asked, **caller("a"))

    assert (too_many.code, too_many.reason) == (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
    assert too_many.metadata == {"limit": "2"}


def _begun(call: Any) -> asyncio.Task[None]:
    async def end() -> None:
        await call

    return asyncio.create_task(end())


async def test_a_caller_has_only_so_many_open_streams_and_others_have_theirs(
    tmp_path: Path,
) -> None:
    limits = {"max_streams": 3, "max_streams_per_caller": 2}
    async with served(tmp_path, **limits) as (_, stub):
        asked = RebuildProjectionRequest()
        streams = [stub.RebuildProjection(asked, **caller(name)) for name in ("a", "a")]
        for stream in streams:
            await stream.read()
        of_a = await failure(stub.RebuildProjection(asked, **caller("a")).read())
        streams.append(stub.RebuildProjection(asked, **caller("b")))
        await streams[-1].read()
        of_c = await failure(stub.RebuildProjection(asked, **caller("c")).read())
        for stream in streams:
            stream.cancel()

    assert {of_a.reason, of_c.reason} == {"TOO_MANY_STREAMS"}
    assert (of_a.metadata, of_c.metadata) == ({"limit": "2"}, {"limit": "3"})


async def test_a_call_without_a_deadline_has_one(tmp_path: Path) -> None:
    async with served(tmp_path, default_deadline=0.1) as (patient, stub):
        options = caller("a")
        without = {"metadata": options["metadata"]}

        late = await failure(stub.ListProjections(ListProjectionsRequest(), **without))
        with_one = _begun(stub.ListProjections(ListProjectionsRequest(), **options))
        for _ in range(2):
            await patient.asked.acquire()
        await failure(stub.ListProjections(ListProjectionsRequest(), **without))
        patient.may_answer.set()
        await with_one

    assert (late.code, late.reason) == (StatusCode.DEADLINE_EXCEEDED, "DEFAULT_DEADLINE")
    assert late.metadata == {"limit": "0.1"}


async def test_headers_beyond_the_limit_are_refused_with_the_limit(tmp_path: Path) -> None:
    async with served(tmp_path) as (patient, stub):
        patient.may_answer.set()
        asked = ListProjectionsRequest()

        await stub.ListProjections(asked, **caller("a", note="x" * (MAX_METADATA_BYTES // 2)))
        error = await rpc_error(
            stub.ListProjections(asked, **caller("a", note="x" * MAX_METADATA_BYTES))
        )
        await stub.ListProjections(asked, **caller("a"))

    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert str(MAX_METADATA_BYTES) in str(error.details())


async def test_a_replay_is_only_so_long_and_says_how_to_go_on(tmp_path: Path) -> None:
    both = Deployment(tmp_path)
    try:
        await both.start_command()
        await both.start_query("--max-replay-events", "3")
        docks = [DockShip(port=f"Kiel {number}") for number in range(6)]
        receipts = await send_all(both.commands, "ever", RegisterShip(name="Ever"), *docks)
        request = ReplayRequest(
            aggregate_type="ship", aggregate_id="ever", min_position=receipts[-1].position
        )
        versions: list[int] = []
        errors: list[Failure] = []

        async def replay() -> None:
            stream = both.queries.replay.Replay(request, timeout=CALL_S)
            while (response := await stream.read()) is not grpc.aio.EOF:
                versions.append(response.event.version)

        for _ in range(2):
            errors.append(await failure(replay()))
            request.after_version = int(errors[-1].metadata["after_version"])
        await replay()
    finally:
        await both.close()

    assert versions == list(range(1, 8))
    assert {(each.code, each.reason, each.metadata["limit"]) for each in errors} == {
        (StatusCode.RESOURCE_EXHAUSTED, "REPLAY_TOO_LONG", "3")
    }


async def test_anybody_may_watch_health_so_that_nobody_elses_streams_find_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.grpc_services.MAX_WATCHES", 3)
    async with connected(tmp_path) as (_, channel):
        health: Any = Stub(channel, HEALTH)
        stub: Any = Stub(channel, PROJECTIONS)
        watches = [
            health.Watch(HealthCheckRequest(service=f"{number}"), timeout=CALL_S)
            for number in range(3)
        ]
        for watch in watches:
            await watch.read()

        too_many = await failure(health.Watch(HealthCheckRequest(), timeout=CALL_S).read())
        check = await health.Check(HealthCheckRequest(), timeout=CALL_S)
        stream = stub.RebuildProjection(RebuildProjectionRequest(), **caller("a"))
        await stream.read()
        watches.pop().cancel()
        async with asyncio.timeout(CALL_S):
            # The server hears of that in its own time.
            while True:
                another = health.Watch(HealthCheckRequest(), timeout=CALL_S)
                if await settled(another):
                    break

        for each in (*watches, another, stream):
            each.cancel()
    assert (too_many.code, too_many.reason) == (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
    assert too_many.metadata == {"limit": "3"}
    assert check.status == SERVING


async def settled(watch: Any) -> bool:
    """Whether a health watch was let in."""
    try:
        await watch.read()
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_health_does_not_keep_names_that_are_longer_than_any_of_its_own(
    tmp_path: Path,
) -> None:
    async with connected(tmp_path) as (_, channel):
        health: Any = Stub(channel, HEALTH)
        longest = HealthCheckRequest(service="x" * MAX_HEALTH_NAME_BYTES)
        too_long = HealthCheckRequest(service="x" * (MAX_HEALTH_NAME_BYTES + 1))

        unknown = await health.Watch(longest, timeout=CALL_S).read()
        watched = await failure(health.Watch(too_long, timeout=CALL_S).read())
        checked = await failure(health.Check(too_long, timeout=CALL_S))

    assert unknown.status == HealthCheckResponse.SERVICE_UNKNOWN
    for each in (watched, checked):
        assert each.code is StatusCode.INVALID_ARGUMENT
        assert each.fields == ["service"]
