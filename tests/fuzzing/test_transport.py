"""Below the messages: methods that are none, sizes, and bytes that no client of gRPC sends."""

import asyncio
import random

import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc import Compression, StatusCode

from shared.aggregates.aggregate import pack
from shared.server import MAX_REQUEST_BYTES
from tests.fuzzing import wire
from tests.fuzzing.contract import BULK, LIBRARIES, METHODS, NOT_IMPLEMENTED, OURS, TENANT_HEADER
from tests.fuzzing.target import DEADLINE_S, Target
from tests.fuzzing.valid import valid
from tests.services.commanding import rpc_error
from tidemark.v1.command_pb2 import ExecuteRequest, ExecuteResponse
from tidemark.v1.ship_pb2 import RegisterShip

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

BY_NAME = {method.full_name: method for method in METHODS}
REGISTER = BY_NAME["tidemark.v1.ShipCommandService.Register"]
VALID = valid(REGISTER.input_type).SerializeToString()


# Methods and sizes


@pytest.mark.parametrize(
    "path",
    [
        *(f"/{service.full_name}/Scuttle" for service in (*OURS, *LIBRARIES)),
        *("/{}/{}".format(*name.rsplit(".", 1)) for name in NOT_IMPLEMENTED),
        *("/tidemark.v1.SubmarineService/Dive", "/", "//", "/one/two/three", "/" + "x" * 5000),
    ],
    ids=lambda path: path[:60],
)
async def test_an_unknown_method_is_unimplemented(services: Target, path: str) -> None:
    for channel in services.channels.values():
        error = await rpc_error(channel.unary_unary(path)(b"", timeout=DEADLINE_S))
        assert error.code() is StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_a_request_over_4_mib_is_refused_by_every_rpc(
    services: Target, compression: Compression
) -> None:
    padding = wire.delimited(wire.UNKNOWN_NUMBER, bytes(MAX_REQUEST_BYTES))

    async def refused(server: str, method: MethodDescriptor) -> bool:
        request = valid(method.input_type).SerializeToString() + padding
        answer = await services.call(server, method, request, compression=compression)
        return answer.code is StatusCode.RESOURCE_EXHAUSTED

    asked = [(server, method) for method in METHODS for server in services.servers_of(method)]
    were_refused = await asyncio.gather(*(refused(*each) for each in asked))

    assert [each for each, was in zip(asked, were_refused, strict=True) if not was] == []
    assert await services.settle() == []


@pytest.mark.parametrize(
    "headers",
    [
        (("x-large", "x" * 20_000),),
        (("x-large", "x" * 1_000_000),),
        ((TENANT_HEADER, "x" * 20_000),),
        tuple((f"x-{number}", "x") for number in range(1000)),
    ],
    ids=["20 kB", "1 MB", "tenant", "1000"],
)
async def test_headers_of_more_than_16_kib_are_refused(
    services: Target, headers: tuple[tuple[str, str], ...]
) -> None:
    answer = await services.call("command_service", REGISTER, VALID, metadata=headers)
    assert answer.code is StatusCode.RESOURCE_EXHAUSTED
    assert await services.settle() == []


# Streams


@pytest.mark.parametrize("bad", [b"\xff\xff\xff", b"\x0a\x7f"])
async def test_what_came_before_a_malformed_request_is_executed_and_nothing_after_it(
    services: Target, bad: bytes
) -> None:
    before, after = (
        ExecuteRequest(commands=[pack(RegisterShip(ship_id=ship_id, name="Ever"))])
        for ship_id in ("before", "after")
    )
    requests = (before.SerializeToString(), bad, after.SerializeToString())
    metadata = ((TENANT_HEADER, f"stream-{bad.hex()}"),)

    answer = await services.call("command_service", BY_NAME[BULK], *requests, metadata=metadata)

    [response] = [ExecuteResponse.FromString(each) for each in answer.responses]
    assert [result.receipt.aggregate_id for result in response.results] == ["before"]
    assert answer.code is StatusCode.INVALID_ARGUMENT
    assert await services.settle() == []


# No gRPC at all


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        bytes(10_000),
        b"\xff" * 10_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.Random(1).randbytes(10_000),  # noqa: S311  # no secret
    ],
    ids=["HTTP/1", "TLS", "zeros", "ones", "no frame", "noise"],
)
async def test_a_connection_that_does_not_speak_grpc_disturbs_nobody(
    services: Target, sent: bytes
) -> None:
    for service in (services.both.command, services.both.query):
        host, _, port = service.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        await writer.drain()
        writer.close()
    assert await services.settle() == []
