"""No secret is in what the services emit: their logs, their answers, their command lines."""

import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest

from examples.dev_credentials import TokenIssuer, write_private
from shared.log.postgres.connecting import without_password
from shared.security.refreshed import shown as shown_source
from tests.security.secured import Secured, authorization
from tests.services.access import Access
from tests.services.commanding import CALL_S, failure_of
from tests.services.health import health_of
from tests.telemetry.scraping import METRICS, scraped
from tidemark.v1.command_pb2 import CommandContext
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.personal_pb2 import GetKeysRequest
from tidemark.v1.ship_pb2 import GetShipRequest, RegisterShip
from tidemark.v1.user_pb2 import CreateUser, EraseUser, GetUserRequest

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


async def person_and_key(both: Secured, answers: list[str]) -> bytes:
    """Somebody comes, is asked for, repeated, refused and erased; the key there was for it."""
    access = both.bearer(scope="read write")
    commands, queries = both.commands(access), both.queries(access)
    keeper = both.commands(Access(both.tls("replica"), {"x-tenant-id": "acme"}))
    context = CommandContext(command_id=str(uuid4()))
    create = CreateUser(user_id="ada", username=f"{CANARY} of a person", context=context)
    receipt = await commands.users.Create(create, timeout=CALL_S)
    answers.append(f"{receipt} {await commands.users.Create(create, timeout=CALL_S)}")
    wanted = GetKeysRequest(aggregate_type="user", aggregate_ids=["ada"])
    [found] = (await keeper.keys.GetKeys(wanted, timeout=CALL_S)).keys
    get = GetUserRequest(user_id="ada", min_position=receipt.position)
    assert CANARY in f"{await queries.users.GetUser(get, timeout=CALL_S)}"
    create.context.Clear()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await commands.users.Create(create, timeout=CALL_S)
    answers.append(f"{raised.value.details()} {failure_of(raised.value)}")
    for log in (commands.log, queries.log):
        subscribe = SubscribeRequest(stop_at_head=True)
        answers.append(f"{await log.Subscribe(subscribe, timeout=CALL_S).read()}")
    erase = EraseUser(user_id="ada")
    answers.append(f"{await commands.users.Erase(erase, timeout=CALL_S)}")
    for client in (commands, queries, keeper):
        await client.channel.close()
    return bytes(found.key)


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
        await both.start("--log-level", "debug", "--channelz", *METRICS)
        key = await person_and_key(both, answers)
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
        keys = contents(both.credentials, "*.key")
        # The services meet a key set and identities that are wrong.
        for name in ("jwks.json", "identities.toml", "server.key"):
            write_private(both.credentials / name, f'{{"keys": "{CANARY}-in-a-broken-file"}}')
        await asked(plain, authorization(TokenIssuer("unknown").token()))
        with pytest.raises(grpc.aio.AioRpcError):
            await both.commands(plain).ships.Register(RegisterShip(), timeout=CALL_S)
        lines = command_lines(both)
        logs = (tmp_path / f"{name}.log" for name in ("command", "query"))
        answers += [f"{await scraped(log)}" for log in logs]
    finally:
        await both.stop()

    emitted = "\n".join([*answers, *lines, *contents(tmp_path, "*.log")])
    assert keys
    assert "calls_refused" in emitted
    assert CANARY not in emitted
    for said_so in (key.hex(), repr(key)[2:-1], base64.b64encode(key).decode().rstrip("=")):
        assert said_so not in emitted
    for secret in [*tokens, password, *keys]:
        for piece in pieces(secret):
            assert piece not in emitted


@pytest.mark.parametrize("password", ["plain", "with?query", "with@sign", "with/slash"])
def test_a_url_is_shown_without_what_is_secret_in_it(password: str) -> None:
    for shown, scheme in ((without_password, "postgresql"), (shown_source, "https")):
        url = f"{scheme}://ada:{password}@host:1/place?token={CANARY}"

        assert shown(url) == f"{scheme}://host:1/place"
