"""No secret is in what the services emit: their logs, their answers, their command lines."""

import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from examples.dev_credentials import TokenIssuer, write_private
from tests.security.secured import Secured, authorization
from tests.services.access import Access
from tests.services.commanding import CALL_S, failure_of
from tests.services.health import health_of
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.ship_pb2 import GetShipRequest, RegisterShip

CANARY = "canary-3f9d"


def pieces(secret: str) -> list[str]:
    """By which a secret would be recognized: itself, and each of its longer parts."""
    parts = [secret, *secret.split("."), *secret.splitlines()]
    return [piece for piece in parts if len(piece) > 30]


def command_lines(both: Secured) -> list[str]:
    """What `ps` shows of the services."""
    pids = [service.process.pid for service in (both.command, both.query)]
    return [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in pids]


def contents(folder: Path, pattern: str) -> list[str]:
    return [file.read_text() for file in folder.glob(pattern)]


async def test_no_secret_is_in_logs_answers_or_command_lines(tmp_path: Path) -> None:
    both = Secured(tmp_path)
    answers: list[str] = []

    async def asked(access: Access, metadata: Any) -> None:
        """Calls that go well or badly; whatever is answered is kept."""
        commands, queries = both.commands(access), both.queries(access)
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: commands.ships.Register(
                RegisterShip(ship_id="ever", name="Ever"), metadata=metadata, timeout=CALL_S
            ),
            lambda: queries.ships.GetShip(
                GetShipRequest(ship_id="ever"), metadata=metadata, timeout=CALL_S
            ),
            lambda: commands.log.Subscribe(
                SubscribeRequest(stop_at_head=True), metadata=metadata, timeout=CALL_S
            ).read(),
        )
        for call in calls:
            try:
                answers.append(f"{await call()}")
            except grpc.aio.AioRpcError as error:
                answers.append(f"{error.details()} {failure_of(error)}")
        for client in (commands, queries):
            await client.channel.close()

    try:
        await both.start("--log-level", "debug", "--channelz")
        good = both.issuer.token(scope="read write", jti=CANARY)
        header, claims, signature = good.split(".")
        said = json.loads(base64.urlsafe_b64decode(claims + "=="))
        tokens = [
            good,
            both.issuer.token(exp=1, jti=CANARY),
            both.issuer.token(aud=CANARY),
            both.issuer.token(tenants=["elsewhere"], jti=CANARY),
            f"{header}.{base64.urlsafe_b64encode(json.dumps(said).encode()).decode()}.{signature}",
            f"{CANARY}-no-token-at-all-but-a-password-of-somebody",
        ]
        plain = Access(both.tls("client"))
        for token in tokens:
            await asked(plain, authorization(token))
        password = base64.b64encode(f"user:{CANARY}-in-a-password-of-somebody".encode()).decode()
        await asked(plain, (("authorization", f"Basic {password}"),))
        channel = plain.channel(both.query.address)
        answers.append(f"{await health_of(channel, '')}")
        await channel.close()
        # The services meet a key set and identities that are wrong.
        for name in ("jwks.json", "identities.toml", "server.key"):
            write_private(both.credentials / name, f'{{"keys": "{CANARY}-in-a-broken-file"}}')
        await asked(plain, authorization(TokenIssuer("unknown").token()))
        with pytest.raises(grpc.aio.AioRpcError):
            await both.commands(plain).ships.Register(RegisterShip(), timeout=CALL_S)
        lines = command_lines(both)
    finally:
        await both.stop()

    emitted = "\n".join([*answers, *lines, *contents(tmp_path, "*.log")])
    keys = contents(both.credentials, "*.key")
    assert "calls_refused" in emitted
    assert CANARY not in emitted
    for secret in [*tokens, password, *keys]:
        for piece in pieces(secret):
            assert piece not in emitted
