"""The services as an operator starts them: options, output, health, what they refuse."""

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from examples.services import Service
from tests.services.commanding import CALL_S, failure, failure_of, of, rpc_error, send
from tests.services.deployment import CommandClient, Deployment, QueryClient, deployment
from tests.services.health import SERVING, health_of, until_health
from tests.services.serving import SERVICES, channel_to
from tests.services.subscribing import reached, subscribed
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.ship_pb2 import DockShip, RegisterShip

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

REGISTER = RegisterShip(name="Ever")
DOCK = DockShip(port="Kiel")

COMMON_OPTIONS = [
    "listen", "log-level", "insecure", "tls-cert", "tls-key", "tls-client-ca", "jwks",
    "token-issuer", "token-audience", "identities", "no-reflection", "channelz", "max-streams",
    "max-streams-per-caller", "max-calls-per-caller", "default-deadline", "metrics",
]  # fmt: skip
OPTIONS = {
    "command_service": [
        *COMMON_OPTIONS, "log", "keys", "allow-data-loss", "max-commands",
        "max-commands-per-tenant",
    ],
    "query_service": [
        *COMMON_OPTIONS, "store", "max-replay-events", "upstream", "upstream-ca", "upstream-cert",
        "upstream-key", "upstream-token",
    ],
}  # fmt: skip
MODULES = list(OPTIONS)


@dataclass(frozen=True)
class Ended:
    """A process that is over."""

    code: int | None
    stdout: str
    stderr: str


async def ended(
    module: str, *arguments: str, folder: Path, env: Mapping[str, str] | None = None
) -> Ended:
    """Runs a service that is expected to end by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**_environment(), **(env or {})},
        cwd=folder,
    )
    try:
        async with asyncio.timeout(CALL_S):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode, stdout.decode(), stderr.decode())


@contextlib.asynccontextmanager
async def running(
    module: str, *arguments: str, log: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Service]:
    """A service for the length of a block."""
    service = await Service.start(module, *arguments, env=env, log=log)
    try:
        yield service
    finally:
        await service.stop()


def arguments_of(module: str, folder: Path) -> list[str]:
    """What it takes to start a service for itself."""
    if module == "command_service":
        return ["--listen", "127.0.0.1:0", "--log", f"sqlite:{folder / 'log.db'}"]
    return ["--listen", "127.0.0.1:0", "--store", str(folder), "--upstream", "127.0.0.1:1"]


def assert_failed_with_a_sentence(process: Ended, code: int, *words: str) -> None:
    """It says what is wrong on standard error, nothing on standard output, without a traceback."""
    assert process.code == code
    assert process.stdout == ""
    said = _plain(process.stderr)
    assert all(word in said for word in words), said
    assert "Traceback" not in said


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    """A port of loopback on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield int(taken.getsockname()[1])


# Options


@pytest.mark.parametrize("module", MODULES)
async def test_help_names_every_option_and_its_environment_variable(
    module: str, tmp_path: Path
) -> None:
    wide = {"COLUMNS": "160"}
    process = await ended(module, "serve", "--help", folder=tmp_path, env=wide)

    said = _plain(process.stdout)
    assert process.code == 0
    for option in OPTIONS[module]:
        assert f"--{option} " in said
        assert f"env var: TIDEMARK_{option.upper().replace('-', '_')}]" in said
    named = set(re.findall(r"--([a-z-]+)", said))
    assert named == {*OPTIONS[module], "help"}


async def test_every_option_can_be_given_by_the_environment(tmp_path: Path) -> None:
    log, store = tmp_path / "elsewhere" / "events.db", tmp_path / "copy"
    command_env = {
        "TIDEMARK_LISTEN": "0.0.0.0:0",
        "TIDEMARK_INSECURE": "1",
        "TIDEMARK_LOG": f"sqlite:{log}",
        "TIDEMARK_MAX_COMMANDS": "2",
        "TIDEMARK_MAX_STREAMS": "2",
        "TIDEMARK_LOG_LEVEL": "error",
    }
    async with running("command_service", env=command_env, log=tmp_path / "stderr") as command:
        port = command.address.rpartition(":")[2]
        query_env = {
            "TIDEMARK_LISTEN": "localhost:0",
            "TIDEMARK_UPSTREAM": f"127.0.0.1:{port}",
            "TIDEMARK_STORE": str(store),
            "TIDEMARK_MAX_STREAMS": "1",
            "TIDEMARK_LOG_LEVEL": "error",
        }
        async with running("query_service", env=query_env, log=tmp_path / "stderr") as query:
            commands = CommandClient(f"127.0.0.1:{port}")
            queries = QueryClient(query.address)
            receipt = await send(commands, of("a", REGISTER))
            await reached(queries.log, receipt.position)
            answers = await asyncio.gather(
                *(send(commands, of(f"{n}", REGISTER)) for n in range(100)), return_exceptions=True
            )
            limits = [await _stream_limit(client.log) for client in (commands, queries)]
            await commands.channel.close()
            await queries.channel.close()

    refusals = [failure_of(each) for each in answers if isinstance(each, grpc.aio.AioRpcError)]
    assert command.address == f"0.0.0.0:{port}"
    assert query.address.startswith("localhost:")
    assert log.is_file()
    assert (store / "log.db").is_file()
    assert {each.metadata["limit"] for each in refusals} == {"2"}
    assert limits == ["2", "1"]
    assert (tmp_path / "stderr").read_bytes() == b""


@pytest.mark.parametrize(
    ("module", "host"),
    [("command_service", "0.0.0.0"), ("command_service", "[::]"), ("query_service", "0.0.0.0")],  # noqa: S104  # refused
)
async def test_listening_for_other_machines_without_tls_has_to_be_wanted(
    module: str, host: str, tmp_path: Path
) -> None:
    arguments = [*arguments_of(module, tmp_path), "--listen", f"{host}:0"]

    process = await ended(module, "serve", *arguments, folder=tmp_path)

    assert_failed_with_a_sentence(process, 1, module, f"{host}:0", "TLS", "--insecure")


@pytest.mark.parametrize("module", MODULES)
async def test_with_insecure_it_listens_for_other_machines(module: str, tmp_path: Path) -> None:
    arguments = [*arguments_of(module, tmp_path), "--listen", "0.0.0.0:0", "--insecure"]

    async with running(module, *arguments, log=tmp_path / "stderr") as service:
        port = service.address.rpartition(":")[2]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await health_of(channel, "live") == SERVING

    assert service.process.returncode == 0


@pytest.mark.parametrize(
    ("command", "log"),
    [
        (["serve", "--listen", "127.0.0.1:0"], "mysql://somewhere"),
        (["serve", "--listen", "127.0.0.1:0"], "postgres://"),
        (["serve", "--listen", "127.0.0.1:0"], "sqlite:"),
        (["verify"], "log.db"),
        (["backup", "--to", "backup.db"], "log.db"),
    ],
)
async def test_a_log_of_no_known_kind_is_refused(
    command: list[str], log: str, tmp_path: Path
) -> None:
    process = await ended("command_service", *command, "--log", log, folder=tmp_path)

    assert_failed_with_a_sentence(process, 2, "--log", repr(log), "sqlite:PATH")


@pytest.mark.parametrize(
    ("module", "option", "value"),
    [
        ("command_service", "--max-commands", "1"),
        ("command_service", "--log-level", "loud"),
        ("query_service", "--max-streams", "0"),
        ("query_service", "--depth", "9"),
    ],
)
async def test_an_option_that_makes_no_sense_is_refused(
    module: str, option: str, value: str, tmp_path: Path
) -> None:
    arguments = [*arguments_of(module, tmp_path), option, value]

    process = await ended(module, "serve", *arguments, folder=tmp_path)

    assert_failed_with_a_sentence(process, 2, option)


async def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with taken_port() as port:
        arguments = [*arguments_of("query_service", tmp_path), "--listen", f"127.0.0.1:{port}"]
        process = await ended("query_service", "serve", *arguments, folder=tmp_path)

    assert_failed_with_a_sentence(process, 1, "query_service", f"127.0.0.1:{port}")


@pytest.mark.parametrize("module", MODULES)
async def test_the_port_of_another_service_is_refused(
    shared: Deployment, module: str, tmp_path: Path
) -> None:
    arguments = [*arguments_of(module, tmp_path), "--listen", shared.command.address]

    process = await ended(module, "serve", *arguments, folder=tmp_path)

    assert_failed_with_a_sentence(process, 1, module, shared.command.address)


async def test_a_second_command_service_on_the_same_log_is_refused(
    shared: Deployment, ship_id: str
) -> None:
    arguments = arguments_of("command_service", shared.folder)

    process = await ended("command_service", "serve", *arguments, folder=shared.folder)

    assert_failed_with_a_sentence(process, 1, "command_service", "Another process")
    assert (await send(shared.commands, of(ship_id, REGISTER))).version == 1


async def test_a_second_query_service_on_the_same_store_is_refused(
    shared: Deployment, ship_id: str
) -> None:
    arguments = arguments_of("query_service", shared.folder / "query")

    process = await ended("query_service", "serve", *arguments, folder=shared.folder)

    assert_failed_with_a_sentence(process, 1, "query_service", "Another process")
    receipt = await send(shared.commands, of(ship_id, REGISTER))
    await reached(shared.queries.log, receipt.position)


async def test_a_query_service_that_cannot_open_one_of_its_files_says_so_and_ends(
    tmp_path: Path,
) -> None:
    store = tmp_path / "query"
    arguments = arguments_of("query_service", store)
    async with running("query_service", *arguments, log=tmp_path / "query.log"):
        pass
    # What a rebuild has left behind, beside the projection that answers.
    (store / "ships-000001.db").rename(store / "ships-000002.db")
    (store / "ships-000001.db").write_bytes(b"damaged" * 1000)

    process = await ended("query_service", "serve", *arguments, folder=tmp_path)

    assert_failed_with_a_sentence(process, 1, "query_service", "damaged")


# Output


async def test_standard_output_has_the_ready_line_and_standard_error_the_log(
    tmp_path: Path,
) -> None:
    async with deployment(tmp_path) as own:
        receipt = await send(own.commands, of("a", REGISTER))
        await failure(send(own.commands, of("a", REGISTER)))
        await reached(own.queries.log, receipt.position)
        for service in (own.query, own.command):
            assert service.process.stdout is not None
            assert await service.stop() == 0
            assert await service.process.stdout.read() == b"", "more than the ready line"

        for name in ("command", "query"):
            lines = (tmp_path / f"{name}.log").read_text().splitlines()
            entries = [json.loads(line) for line in lines]
            events = [entry["event"] for entry in entries]
            assert "serving" in events
            assert events[-1] == "stopped"
            assert all(entry["level"] and entry["timestamp"] for entry in entries)
            serving = entries[events.index("serving")]
            assert serving["address"] == getattr(own, name).address


@pytest.mark.parametrize("module", MODULES)
async def test_the_ready_line_names_the_service_and_the_port_that_it_got(
    module: str, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "serve", *arguments_of(module, tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    async with asyncio.timeout(CALL_S):
        line = (await process.stdout.readline()).decode()
        match = re.fullmatch(rf"{module} ready on (127\.0\.0\.1:[1-9]\d*)\n", line)
        assert match
        async with grpc.aio.insecure_channel(match[1]) as channel:
            assert await health_of(channel, "live") == SERVING
        process.terminate()
        rest = await process.stdout.read()
        code = await process.wait()

    assert rest == b""
    assert code == 0


# Health and reflection


async def test_every_service_is_healthy_and_an_unknown_one_unknown(shared: Deployment) -> None:
    for module, service in (("command_service", shared.command), ("query_service", shared.query)):
        async with channel_to(service) as channel:
            for name in ("live", "", *SERVICES[module]):
                await until_health(channel, name, SERVING)
            error = await rpc_error(health_of(channel, "tidemark.v1.SubmarineService"))
            assert error.code() is StatusCode.NOT_FOUND


async def test_reflection_lists_every_service(shared: Deployment) -> None:
    for module, service in (("command_service", shared.command), ("query_service", shared.query)):
        async with channel_to(service) as channel:
            names = await _reflected_services(channel)
        assert [name for name in names if name.startswith("tidemark.")] == SERVICES[module]
        assert "grpc.health.v1.Health" in names


@pytest.mark.parametrize("malformed", [b"\xff\xff", b"\x0a\x01\xff", b"\x0a\x05one"])
async def test_bytes_that_are_no_request_of_theirs_are_malformed(
    shared: Deployment, malformed: bytes
) -> None:
    async with channel_to(shared.command) as opened:
        channel: Any = opened
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        reflect = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )(timeout=CALL_S)
        await reflect.write(malformed)
        calls = (
            check(malformed, timeout=CALL_S),
            watch(malformed, timeout=CALL_S).read(),
            reflect.read(),
        )
        failures = [await failure(call) for call in calls]

    assert {each.reason for each in failures} == {"MALFORMED_REQUEST"}
    assert "Traceback" not in (shared.folder / "command.log").read_text()


async def _stream_limit(log: Any) -> str:
    """Opens streams until one is refused, and returns the limit that this names."""
    async with contextlib.AsyncExitStack() as streams:
        for _ in range(5):
            stream = await streams.enter_async_context(subscribed(log, SubscribeRequest()))
            try:
                await stream.next()
            except grpc.aio.AioRpcError as error:
                return failure_of(error).metadata["limit"]
    raise AssertionError("no stream was refused")


async def _reflected_services(channel: Any) -> list[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    [response] = [each async for each in stub.ServerReflectionInfo(iter([request]), timeout=CALL_S)]
    return sorted(each.name for each in response.list_services_response.service)


def _environment() -> dict[str, str]:
    """That of an operator at no terminal."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "FORCE_COLOR", "TERMINAL_WIDTH")
        and not name.startswith("TIDEMARK_")
    }


def _plain(said: str) -> str:
    """Without the frame that a help text is drawn in, on one line."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", said).split())
