"""The Python client proves who it is: by a certificate, by a token."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from shared.client import Client
from shared.client.connection import Connection
from shared.errors import Unavailable
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.user_pb2 import CreateUser

CREATE = CreateUser(username="ada")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, Path]:
    """What a client of the authority's is given."""
    certificate = authority.issue_cert("client.example")
    written = {
        "ca": authority.cert_pem.bytes(),
        "cert": certificate.cert_chain_pems[0].bytes(),
        "key": certificate.private_key_pem.bytes(),
        "token": b"one\n",
    }
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in written}


@asynccontextmanager
async def greeting(
    credentials: grpc.ServerCredentials | None,
) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A server that takes a command from anybody, its address, and what its callers showed."""
    shown: list[dict[str, Any]] = []

    async def create(
        _command: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> CommandReceipt:
        metadata = dict(context.invocation_metadata() or ())
        peer = context.auth_context()
        shown.append(
            {
                "tenant": metadata.get("x-tenant-id"),
                "token": metadata.get("authorization"),
                "certificate": b"".join(peer.get("x509_subject_alternative_name", ())),
            }
        )
        return CommandReceipt(version=1)

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, CommandReceipt] = grpc.unary_unary_rpc_method_handler(
        create,
        response_serializer=CommandReceipt.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "tidemark.v1.UserCommandService", {"Create": handler}
            ),
        )
    )
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"localhost:{port}", shown
    finally:
        await server.stop(None)


def with_tls(authority: trustme.CA, *, mutual: bool = False) -> grpc.ServerCredentials:
    certificate = authority.issue_cert("localhost")
    pair = (
        certificate.private_key_pem.bytes(),
        b"".join(each.bytes() for each in certificate.cert_chain_pems),
    )
    if mutual:
        return grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), True)
    return grpc.ssl_server_credentials([pair])


async def test_a_call_is_encrypted_for_the_authorities_that_are_given(
    authority: trustme.CA, files: dict[str, Path]
) -> None:
    async with (
        greeting(with_tls(authority)) as (address, shown),
        Client(Connection(address, tenant_id="acme", ca=files["ca"])) as client,
    ):
        await client.execute(CREATE)

    assert shown == [{"tenant": "acme", "token": None, "certificate": b""}]


async def test_a_service_of_another_authority_is_not_called(files: dict[str, Path]) -> None:
    async with (
        greeting(with_tls(trustme.CA())) as (address, shown),
        Client(Connection(address, ca=files["ca"]), timeout_s=0.5) as client,
    ):
        with pytest.raises(Unavailable):
            await client.execute(CREATE)

    assert shown == []


async def test_a_certificate_says_who_calls(authority: trustme.CA, files: dict[str, Path]) -> None:
    async with (
        greeting(with_tls(authority, mutual=True)) as (address, shown),
        Client(Connection(address, ca=files["ca"], cert=files["cert"], key=files["key"])) as client,
    ):
        await client.execute(CREATE)

    assert shown[0]["certificate"] == b"client.example"


async def test_a_token_goes_with_every_call_as_it_is_then(
    authority: trustme.CA, files: dict[str, Path]
) -> None:
    async with (
        greeting(with_tls(authority)) as (address, shown),
        Client(Connection(address, ca=files["ca"], token=files["token"])) as client,
    ):
        await client.execute(CREATE)
        files["token"].write_text("another")
        await client.execute(CREATE)

    assert [each["token"] for each in shown] == ["Bearer one", "Bearer another"]


async def test_without_tls_a_token_is_sent_within_this_machine(files: dict[str, Path]) -> None:
    async with (
        greeting(None) as (address, shown),
        Client(Connection(address, token=files["token"])) as client,
    ):
        await client.execute(CREATE)

    assert [each["token"] for each in shown] == ["Bearer one"]


async def test_a_token_that_cannot_be_read_is_said(files: dict[str, Path]) -> None:
    files["token"].unlink()
    async with (
        greeting(None) as (address, shown),
        Client(Connection(address, token=files["token"]), timeout_s=0.3) as client,
    ):
        with pytest.raises(Unavailable, match="No such file"):
            await client.execute(CREATE)

    assert shown == []


@pytest.mark.parametrize("given", [("ca", "cert"), ("ca", "key"), ("cert", "key")])
async def test_half_a_proof_is_a_mistake(files: dict[str, Path], given: tuple[str, ...]) -> None:
    ca, cert, key = (files[name] if name in given else None for name in ("ca", "cert", "key"))
    connection = Connection(ca=ca, cert=cert, key=key)

    with pytest.raises(ValueError, match="goes with its key"):
        connection.channel("localhost:1")


async def test_the_command_line_takes_all_of_it_from_the_environment(
    authority: trustme.CA, files: dict[str, Path]
) -> None:
    tidemark = Path(sys.executable).with_name("tidemark")
    async with greeting(with_tls(authority, mutual=True)) as (address, shown):
        process = await asyncio.create_subprocess_exec(
            *(tidemark, "users", "create", "--username", "ada"),
            env={
                **os.environ,
                "TIDEMARK_COMMANDS": address,
                "TIDEMARK_TENANT": "acme",
                "TIDEMARK_CA": str(files["ca"]),
                "TIDEMARK_CERT": str(files["cert"]),
                "TIDEMARK_KEY": str(files["key"]),
                "TIDEMARK_TOKEN_FILE": str(files["token"]),
            },
        )
        assert await asyncio.wait_for(process.wait(), 30) == 0

    assert shown == [{"tenant": "acme", "token": "Bearer one", "certificate": b"client.example"}]
