"""TLS between clients, command service and query service, and its renewal."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from cryptography import x509

from examples.dev_credentials import (
    REPLICA,
    Authority,
    make,
    server_names,
    tls_options,
    upstream_options,
    write_private,
)
from examples.services import Service, start_command_service, start_query_service
from shared.options import ServerOptions
from shared.security.misconfigured import Misconfigured
from shared.security.upstream import Upstream
from shared.server import Server
from tests.services.access import OPEN, Access, certified, tls_credentials
from tests.services.commanding import CALL_S, of, rpc_error, send
from tests.services.deployment import CommandClient, QueryClient
from tests.services.subscribing import reached
from tests.services.test_processes import (
    arguments_of,
    assert_failed_with_a_sentence,
    ended,
)
from tidemark.v1.ship_pb2 import DockShip, GetShipRequest, RegisterShip

pytestmark = pytest.mark.timeout(60)

REGISTER = RegisterShip(name="Ever")
DOCK = DockShip(port="Kiel")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Path, Service]]:
    """A command service that asks every client for a certificate, and the credentials."""
    folder = tmp_path_factory.mktemp("secured")
    async with command_service(folder) as command:
        yield folder / "credentials", command


@asynccontextmanager
async def command_service(folder: Path) -> AsyncIterator[Service]:
    make(folder / "credentials")
    options = tls_options(folder / "credentials")
    command = await start_command_service(
        folder, "127.0.0.1:0", *options, log=folder / "command.log"
    )
    try:
        yield command
    finally:
        await command.stop()


def shown_certificate(address: str, folder: Path) -> x509.Certificate:
    """The certificate that a server shows to a new connection."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "client.pem", folder / "client.key")
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=CALL_S) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def certificate_in(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


async def refused(address: str, access: Access) -> None:
    """Nobody answers this client."""
    client = CommandClient(address, access)
    error = await rpc_error(client.ships.Register(RegisterShip(name="Ever"), timeout=CALL_S))
    await client.channel.close()
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_command_and_a_query_go_over_mutual_tls_from_end_to_end(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    async with command_service(tmp_path) as command:
        options = [*tls_options(credentials), *upstream_options(credentials)]
        query = await start_query_service(
            tmp_path, command.address, "127.0.0.1:0", *options, log=tmp_path / "query.log"
        )
        commands = CommandClient(command.address, certified(credentials))
        queries = QueryClient(query.address, certified(credentials))
        try:
            receipt = await send(commands, of("ever", REGISTER))
            answer = await queries.ships.GetShip(
                GetShipRequest(ship_id="ever", min_position=receipt.position), timeout=CALL_S
            )
        finally:
            await commands.channel.close()
            await queries.channel.close()
            await query.stop()
    assert answer.ship.name == "Ever"


@pytest.mark.parametrize(
    "access",
    [
        pytest.param(lambda _: OPEN, id="in plain text"),
        pytest.param(lambda folder: Access(tls_credentials(folder, None)), id="no certificate"),
        pytest.param(
            lambda folder: Access(
                grpc.ssl_channel_credentials(
                    (folder / "ca.pem").read_bytes(),
                    *reversed(Authority("Somebody else").issue("client")),
                )
            ),
            id="another authority's certificate",
        ),
        pytest.param(
            lambda _: Access(
                grpc.ssl_channel_credentials(
                    Authority("Somebody else").certificate,
                )
            ),
            id="the client does not trust the server",
        ),
    ],
)
async def test_who_cannot_show_the_right_certificate_gets_no_answer(
    secured: tuple[Path, Service], access: Callable[[Path], Access]
) -> None:
    folder, command = secured

    await refused(command.address, access(folder))

    client = CommandClient(command.address, certified(folder))
    assert (await send(client, of("", REGISTER))).version == 1
    await client.channel.close()


async def test_a_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on(
    tmp_path: Path,
) -> None:
    credentials = tmp_path / "credentials"
    async with command_service(tmp_path) as command:
        before = await asyncio.to_thread(shown_certificate, command.address, credentials)
        client = CommandClient(command.address, certified(credentials))
        await send(client, of("a", REGISTER))

        renew(credentials, Authority("The next one"))

        after = await asyncio.to_thread(shown_certificate, command.address, credentials)
        assert (await send(client, of("a", DOCK))).version == 2
        newcomer = CommandClient(command.address, certified(credentials))
        assert (await send(newcomer, of("b", REGISTER))).version == 1
        for each in (client, newcomer):
            await each.channel.close()
    assert after == certificate_in(credentials / "server.pem") != before


async def test_half_of_a_renewal_changes_nothing_until_the_other_half_is_there(
    tmp_path: Path,
) -> None:
    credentials = tmp_path / "credentials"
    async with command_service(tmp_path) as command:
        before = certificate_in(credentials / "server.pem")
        authority = Authority("The next one")
        certificate, key = authority.issue("localhost", *server_names())

        write_private(credentials / "server.pem", certificate)
        halfway = await asyncio.to_thread(shown_certificate, command.address, credentials)
        write_private(credentials / "server.key", key)
        trusted = (credentials / "ca.pem").read_bytes() + authority.certificate
        write_private(credentials / "ca.pem", trusted)
        after = await asyncio.to_thread(shown_certificate, command.address, credentials)

    assert halfway == before
    assert after == certificate_in(credentials / "server.pem") != before
    assert "certificate_not_renewed" in (tmp_path / "command.log").read_text()


async def test_a_query_service_connects_again_with_its_renewed_certificate(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    async with command_service(tmp_path) as command:
        options = upstream_options(credentials)
        query = await start_query_service(
            tmp_path, command.address, "127.0.0.1:0", *options, log=tmp_path / "query.log"
        )
        queries = QueryClient(query.address)
        try:
            await command.stop()
            renew(credentials, Authority("The next one"))
            again = await start_command_service(
                tmp_path, command.address, *tls_options(credentials), log=tmp_path / "again.log"
            )
            commands = CommandClient(command.address, certified(credentials))
            receipt = await send(commands, of("a", REGISTER), wait_for_ready=True)
            await reached(queries.log, receipt.position)
            await commands.channel.close()
        finally:
            await queries.channel.close()
            await query.stop()
        await again.stop()


def renew(folder: Path, authority: Authority) -> None:
    """Another authority, and certificates from it, in the place of those in a folder."""
    names: dict[str, tuple[x509.GeneralName, ...]] = {
        "server": server_names(),
        "client": (),
        "replica": (x509.UniformResourceIdentifier(REPLICA),),
    }
    for name, alternatives in names.items():
        certificate, key = authority.issue(name, *alternatives)
        write_private(folder / f"{name}.pem", certificate)
        write_private(folder / f"{name}.key", key)
    write_private(folder / "ca.pem", authority.certificate)


async def test_tls_that_cannot_work_ends_the_service_with_a_sentence(tmp_path: Path) -> None:
    make(tmp_path)
    options = ["--tls-cert", "server.pem", "--tls-key", "client.key"]
    arguments = arguments_of("command_service", tmp_path / "data")

    process = await ended("command_service", "serve", *arguments, *options, folder=tmp_path)

    assert_failed_with_a_sentence(process, 1, "command_service", "client.key", "server.pem")


async def test_an_upstream_that_cannot_work_ends_the_service_with_a_sentence(
    tmp_path: Path,
) -> None:
    make(tmp_path)
    options = ["--upstream-token", "token", "--upstream", "tidemark.example:50051"]
    arguments = arguments_of("query_service", tmp_path / "data")

    process = await ended("query_service", "serve", *arguments, *options, folder=tmp_path)

    assert_failed_with_a_sentence(process, 1, "query_service", "plain text", "--upstream-ca")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tls_cert": "server.pem"}, "--tls-key"),
        ({"tls_client_ca": "ca.pem"}, "--tls-cert and --tls-key"),
        ({"tls_cert": "server.pem", "tls_key": "missing.key"}, "missing.key"),
        ({"tls_cert": "server.key", "tls_key": "server.key"}, "no certificate"),
        ({"tls_cert": "server.pem", "tls_key": "server.pem"}, "no unencrypted private key"),
    ],
)
async def test_options_of_tls_that_do_not_fit_are_refused(
    files: dict[str, str], words: str, tmp_path: Path
) -> None:
    make(tmp_path)
    options = ServerOptions(**{name: tmp_path / file for name, file in files.items()})  # type: ignore[arg-type]  # all are files

    with pytest.raises((Misconfigured, OSError), match=words):
        Server("127.0.0.1:0", options)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"upstream_cert": "replica.pem"}, "--upstream-key"),
        ({"upstream_cert": "replica.pem", "upstream_key": "replica.key"}, "--upstream-ca"),
        ({"upstream_ca": "missing.pem"}, "missing.pem"),
    ],
)
def test_options_of_the_upstream_that_do_not_fit_are_refused(
    files: dict[str, str], words: str, tmp_path: Path
) -> None:
    make(tmp_path)
    upstream = Upstream(**{name: tmp_path / file for name, file in files.items()})  # type: ignore[arg-type]  # all are files

    with pytest.raises((Misconfigured, OSError), match=words):
        upstream.check()


def test_keys_are_not_asked_of_another_machine_in_plain_text_unless_its_network_is_trusted(
    tmp_path: Path,
) -> None:
    make(tmp_path)
    plain = Upstream(upstream="commands.example:50051")

    with pytest.raises(Misconfigured, match="--upstream-ca"):
        plain.check()
    plain.check(insecure=True)
    Upstream(upstream="127.0.0.1:50051").check()
    Upstream(upstream="commands.example:50051", upstream_ca=tmp_path / "ca.pem").check()
