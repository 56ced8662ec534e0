"""Peers that speak HTTP/2 to do harm: each on a raw connection, while somebody else is served.

What they cost is bounded: memory that stays, and work that ends with them.
"""

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from examples.dev_credentials import AUDIENCE, ISSUER, TokenIssuer, jwk_set
from examples.services import Service, start_command_service
from shared.aggregates.aggregate import pack
from shared.server import HANDSHAKE_S
from tests.security.secured import Secured, authorization
from tests.services.access import Access
from tests.services.commanding import CALL_S, of
from tests.services.deployment import CommandClient
from tidemark.v1.command_pb2 import ExecuteRequest
from tidemark.v1.ship_pb2 import DockShip, RegisterShip

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

FLOOD_S = 1.5
MAX_GROWTH_BYTES = 384 << 20
"""At most 250 calls of a connection are open at once, here with up to 1 MiB of headers each; and
half of that again, for what is freed and not given back yet."""

LARGE_BYTES = 1 << 30

MAX_IDLE_SHARE = 0.5
"""Of one CPU, once the peer is gone."""

SERVED_S = 10.0
MAX_WINDOW = (1 << 31) - 1
REQUEST_HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/tidemark.v1.EventLogService/Subscribe"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


@dataclass(frozen=True)
class Target:
    """A command service that asks callers who they are, and has something in its log."""

    service: Service
    issuer: TokenIssuer

    def client(self) -> CommandClient:
        """Somebody who is known."""
        headers = dict(authorization(self.issuer.token()))
        return CommandClient(self.service.address, Access(None, headers))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    issuer = TokenIssuer("dev")
    (folder / "jwks.json").write_text(jwk_set(issuer))
    options = ["--jwks", str(folder / "jwks.json")]
    options += ["--token-issuer", ISSUER, "--token-audience", AUDIENCE]
    command = await start_command_service(folder, "127.0.0.1:0", *options, log=folder / "log")
    target = Target(command, issuer)
    client = target.client()
    wide = pack(of("wide", DockShip(port="𝄞" * 256)))
    await client.ships.Register(of("wide", RegisterShip(name="Wide")), timeout=CALL_S)
    for _ in range(4):
        request = ExecuteRequest(commands=[wide] * 1000)
        await client.bulk.Execute(iter([request]), timeout=CALL_S).read()
    await client.channel.close()
    yield target
    assert await command.stop() == 0


class Usage:
    """What a process takes."""

    def __init__(self, service: Service) -> None:
        self._pid = service.process.pid

    @property
    def bytes(self) -> int:
        """Of memory that is resident."""
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu_s(self) -> float:
        """Since it began."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.asynccontextmanager
async def somebody_served(target: Target) -> AsyncIterator[None]:
    """Somebody sends command after command, each of which has to be answered; and once more."""
    client = target.client()
    is_over = asyncio.Event()
    served = 0

    async def command_after_command() -> None:
        nonlocal served
        while not is_over.is_set():
            await client.ships.Register(RegisterShip(name="Ever"), timeout=SERVED_S)
            served += 1

    task = asyncio.create_task(command_after_command())
    try:
        yield
    finally:
        is_over.set()
        await task
        await client.channel.close()
    assert served > 0


@contextlib.asynccontextmanager
async def bounded(target: Target) -> AsyncIterator[None]:
    """What the service takes meanwhile is little, and afterwards it is at rest."""
    usage = Usage(target.service)
    before = usage.bytes
    async with somebody_served(target):
        yield
    assert usage.bytes - before < MAX_GROWTH_BYTES
    async with asyncio.timeout(SERVED_S):
        while True:
            began, used = time.monotonic(), usage.cpu_s
            await asyncio.sleep(0.2)
            if usage.cpu_s - used < MAX_IDLE_SHARE * (time.monotonic() - began):
                return


def connected(service: Service) -> socket.socket:
    host, _, port = service.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=FLOOD_S)


def greeting(*, wide: bool = False) -> bytes:
    """What a client says first.

    Args:
        wide: that the server may send as much as there is.
    """
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    if wide:
        connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: MAX_WINDOW})
        connection.increment_flow_control_window(MAX_WINDOW // 2)
    return connection.data_to_send()


def headers(stream_id: int, *more: tuple[str, str], is_complete: bool = True) -> bytes:
    """Begins a call."""
    frame = HeadersFrame(stream_id, Encoder().encode([*REQUEST_HEADERS, *more]))
    if is_complete:
        frame.flags.add("END_HEADERS")
    return frame.serialize()


def subscription(stream_id: int, token: str) -> bytes:
    """Subscribes to everything of the tenant."""
    message = DataFrame(stream_id, b"\0\0\0\0\0")
    message.flags.add("END_STREAM")
    return headers(stream_id, *authorization(token)) + message.serialize()


def pings() -> Iterator[bytes]:
    return itertools.repeat(PingFrame(0, b"12345678").serialize() * 1000)


def settings() -> Iterator[bytes]:
    frame = SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 70_000})
    return itertools.repeat(frame.serialize() * 1000)


def resets() -> Iterator[bytes]:
    for first in itertools.count(1, 200):
        yield b"".join(
            headers(number) + RstStreamFrame(number, 8).serialize()
            for number in range(first, first + 200, 2)
        )


def streams_without_end() -> Iterator[bytes]:
    for first in itertools.count(1, 200):
        yield b"".join(headers(number) for number in range(first, first + 200, 2))


def empty_data() -> Iterator[bytes]:
    yield headers(1)
    yield from itertools.repeat(DataFrame(1, b"").serialize() * 1000)


def large_headers() -> Iterator[bytes]:
    for number in itertools.count(1, 2):
        block = Encoder().encode([*REQUEST_HEADERS, ("note", "x" * (1 << 20))], huffman=False)
        first = HeadersFrame(number, block[:16_000])
        rest = [
            ContinuationFrame(number, block[start : start + 16_000])
            for start in range(16_000, len(block), 16_000)
        ]
        rest[-1].flags.add("END_HEADERS")
        yield b"".join(frame.serialize() for frame in (first, *rest))


def headers_without_end() -> Iterator[bytes]:
    yield headers(1, is_complete=False)
    for number in itertools.count():
        block = Encoder().encode([(f"note-{number}", "x" * 1000)], huffman=False)
        yield ContinuationFrame(1, block).serialize() * 10


def noise() -> Iterator[bytes]:
    return itertools.repeat(bytes(range(256)) * 100)


FLOODS = [
    pings, settings, resets, streams_without_end, empty_data, large_headers, headers_without_end,
    noise,
]  # fmt: skip


def flood(service: Service, frames: Callable[[], Iterator[bytes]]) -> int:
    """Sends frames for a while, or until the server has had enough; returns how many bytes.

    It never reads, so that the answers have nowhere to go.
    """
    sent = 0
    until = time.monotonic() + FLOOD_S
    with connected(service) as connection, contextlib.suppress(OSError):
        connection.sendall(greeting())
        for chunk in frames():
            connection.sendall(chunk)
            sent += len(chunk)
            if time.monotonic() > until:
                break
    return sent


@pytest.mark.parametrize("frames", FLOODS, ids=lambda each: each.__name__)
async def test_a_flood_takes_little_and_keeps_nobody_else_from_being_served(
    target: Target, frames: Callable[[], Iterator[bytes]]
) -> None:
    async with bounded(target):
        assert await asyncio.to_thread(flood, target.service, frames) > 0


async def test_headers_that_are_refused_are_not_kept(target: Target) -> None:
    usage = Usage(target.service)
    before, sent = usage.bytes, 0

    while sent < LARGE_BYTES:
        sent += await asyncio.to_thread(flood, target.service, large_headers)

    assert usage.bytes - before < sent / 2


async def test_readers_who_never_read_take_little(target: Target) -> None:
    token = target.issuer.token()
    with contextlib.ExitStack() as connections:
        async with bounded(target):
            for _ in range(50):
                connection = connections.enter_context(connected(target.service))
                said = greeting(wide=True) + subscription(1, token) + subscription(3, token)
                await asyncio.to_thread(connection.sendall, said)
            await asyncio.sleep(FLOOD_S)


async def test_connections_that_are_closed_by_halves_are_let_go(target: Target) -> None:
    with contextlib.ExitStack() as connections:
        opened = [connections.enter_context(connected(target.service)) for _ in range(200)]
        async with bounded(target):
            for connection in opened:
                connection.sendall(greeting() + headers(1))
                connection.shutdown(socket.SHUT_WR)
            ends = await asyncio.gather(*(asyncio.to_thread(ended, each) for each in opened))
    assert all(ends)


async def test_the_port_of_tls_answers_nobody_without_it_and_lets_go_who_says_nothing(
    both: Secured,
) -> None:
    client = both.commands(both.bearer(scope="write"))
    with contextlib.ExitStack() as connections:
        silent = [connections.enter_context(connected(both.command)) for _ in range(100)]
        begun = time.monotonic()
        plain = [connections.enter_context(connected(both.command)) for _ in range(20)]
        for connection in plain:
            connection.sendall(greeting() + headers(1))
        half_a_handshake = connections.enter_context(connected(both.command))
        half_a_handshake.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")

        answers = [await asyncio.to_thread(ended, connection) for connection in plain]
        receipt = await client.ships.Register(RegisterShip(name="Ever"), timeout=SERVED_S)
        left = HANDSHAKE_S + 5
        ends = await asyncio.gather(
            *(asyncio.to_thread(ended, each, left) for each in (*silent, half_a_handshake))
        )
        took = time.monotonic() - begun

    await client.channel.close()
    assert receipt.version == 1
    assert all(answers)
    assert all(ends)
    assert took > HANDSHAKE_S / 2, "they were let go for another reason"


def ended(connection: socket.socket, within_s: float = SERVED_S) -> bool:
    """Whether the server closes it, within some seconds."""
    connection.settimeout(within_s)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True
