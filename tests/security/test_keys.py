"""Where keys and identities come from, and what happens when they change or cannot be had."""

import asyncio
import contextlib
import http.server
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from google.protobuf.message import Message
from jwt.algorithms import RSAAlgorithm
from jwt.warnings import InsecureKeyLengthWarning

from examples.dev_credentials import (
    AUDIENCE,
    ISSUER,
    Authority,
    TokenIssuer,
    developer_claims,
    jwk_set,
)
from shared.call import Call
from shared.errors import NotFound, Unauthenticated
from shared.options import ServerOptions
from shared.rpc import methods_of
from shared.security import refreshed, tokens
from shared.security.certificates import Certificates, identities_of, owner_of
from shared.security.identity import Identity, Scope
from shared.security.misconfigured import Misconfigured
from shared.security.tokens import keys_of
from shared.server import Server
from tests.security.secured import authorization
from tests.services.commanding import CALL_S, failure_of
from tests.services.deployment import PROJECTIONS
from tidemark.v1.query_pb2 import ListProjectionsResponse

LIST = "/tidemark.v1.ProjectionService/ListProjections"


class Nothing:
    """A service that has nothing."""

    async def list_projections(self, _request: Message, _call: Call) -> Message:
        return ListProjectionsResponse()

    async def rebuild_projection(self, _request: Message, _call: Call) -> None:
        raise NotFound("PROJECTION_NOT_FOUND", "There is no projection")


@contextlib.asynccontextmanager
async def served(key_set: str) -> AsyncIterator[Any]:
    """A server of this process that takes tokens; gives a function that calls with one."""
    options = ServerOptions(jwks=key_set, token_issuer=ISSUER, token_audience=AUDIENCE)
    async with Server("127.0.0.1:0", options) as server:
        server.add(PROJECTIONS, methods_of(Nothing()))
        address = await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            rpc: Any = channel.unary_unary(LIST)

            async def call(token: str) -> str:
                """The reason why it is refused; empty: it is not."""
                metadata = authorization(token)
                try:
                    await rpc(b"", metadata=metadata, timeout=CALL_S)
                except grpc.aio.AioRpcError as error:
                    return failure_of(error).reason
                return ""

            yield call


def admin(issuer: TokenIssuer) -> str:
    return issuer.token(scope="admin")


class KeyServer:
    """Publishes a key set over HTTP; counts how often it is asked."""

    def __init__(self) -> None:
        self.content = b""
        self.status = 200
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    @contextlib.contextmanager
    def listening(self) -> Iterator[str]:
        """Its URL."""
        this = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                this.asked += 1
                this.may_answer.wait(CALL_S)
                self.send_response(this.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(this.content)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/jwks"
            finally:
                self.may_answer.set()
                server.shutdown()
                thread.join()


@pytest.fixture
def key_server() -> Iterator[tuple[KeyServer, str]]:
    server = KeyServer()
    with server.listening() as url:
        yield server, url


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads again as often as it is asked for."""
    monkeypatch.setattr(refreshed, "MIN_INTERVAL_S", 0.0)


@pytest.mark.usefixtures("eager")
async def test_a_new_key_is_found_when_a_token_names_it_and_an_old_one_is_gone_with_it(
    tmp_path: Path,
) -> None:
    old, new = TokenIssuer("old"), TokenIssuer("new")
    file = tmp_path / "jwks.json"
    file.write_text(jwk_set(old))
    async with served(str(file)) as call:
        assert await call(admin(old)) == ""
        assert await call(admin(new)) == "TOKEN_INVALID"

        file.write_text(jwk_set(new))

        assert await call(admin(new)) == ""
        assert await call(admin(old)) == "TOKEN_INVALID"


async def test_a_key_that_is_withdrawn_is_gone_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshed, "REFRESH_S", 0.01)
    leaked, other = TokenIssuer("leaked"), TokenIssuer("other")
    file = tmp_path / "jwks.json"
    file.write_text(jwk_set(leaked, other))
    async with served(str(file)) as call:
        assert await call(admin(leaked)) == ""
        file.write_text(jwk_set(other))
        async with asyncio.timeout(CALL_S):
            while await call(admin(leaked)) == "":
                pass


async def test_tokens_with_unknown_keys_do_not_have_the_issuer_flooded(
    key_server: tuple[KeyServer, str],
) -> None:
    server, url = key_server
    known = TokenIssuer("known")
    server.content = jwk_set(known).encode()
    async with served(url) as call:
        reasons = await asyncio.gather(
            *(call(admin(TokenIssuer(f"unknown-{n}", known.key))) for n in range(200))
        )
        assert set(reasons) == {"TOKEN_INVALID"}
        assert await call(admin(known)) == ""
    assert server.asked == 1


@pytest.mark.usefixtures("eager")
async def test_an_issuer_that_does_not_answer_keeps_nobody_waiting_whose_key_is_known(
    key_server: tuple[KeyServer, str],
) -> None:
    server, url = key_server
    known, unknown = TokenIssuer("known"), TokenIssuer("unknown")
    server.content = jwk_set(known).encode()
    async with served(url) as call:
        server.may_answer.clear()
        waiting = asyncio.create_task(call(admin(unknown)))
        async with asyncio.timeout(CALL_S):
            while server.asked < 2:
                assert await call(admin(known)) == ""
        assert not waiting.done()
        server.content = jwk_set(known, unknown).encode()
        server.may_answer.set()
        assert await waiting == ""


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("status", "content"),
    [(500, b""), (200, b"no key set"), (200, b'{"keys": []}'), (302, b""), (200, b"x" * (2 << 20))],
)
async def test_an_issuer_that_answers_nonsense_leaves_the_known_keys_good(
    key_server: tuple[KeyServer, str], status: int, content: bytes
) -> None:
    server, url = key_server
    known = TokenIssuer("known")
    server.content = jwk_set(known).encode()
    async with served(url) as call:
        server.status, server.content = status, content
        assert await call(admin(TokenIssuer("unknown"))) == "TOKEN_INVALID"
        assert server.asked == 2, "redirected"
        assert await call(admin(known)) == ""


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"keys": 7}',
        '{"keys": [7, {"kid": "a"}, {"kid": 7, "kty": "EC"}]}',
        '{"keys": [{"kid": "secret", "kty": "oct", "k": "c2VjcmV0"}]}',
    ],
)
def test_what_has_no_key_that_verifies_is_no_key_set(content: str) -> None:
    with pytest.raises(ValueError, match=r"key|JSON|Expecting"):
        keys_of(content.encode())


def test_a_private_key_in_the_key_set_is_not_used() -> None:
    key = rsa.generate_private_key(65537, 2048)
    private = RSAAlgorithm.to_jwk(key, as_dict=True)
    public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)

    keys = keys_of(key_set({**private, "kid": "private"}, {**public, "kid": "public"}))

    assert list(keys) == ["public"]


async def test_a_key_that_is_too_short_verifies_nothing(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505  # too short
    public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    file = tmp_path / "jwks.json"
    file.write_bytes(key_set({**public, "kid": "short"}))
    with pytest.warns(InsecureKeyLengthWarning):
        token = jwt.encode(developer_claims(), key, "RS256", {"kid": "short"})

    async with served(str(file)) as call:
        assert await call(token) == "TOKEN_INVALID"


@pytest.mark.parametrize(
    "claims",
    [
        {"tenants": "acme"},
        {"tenants": [""]},
        {"tenants": ["a\nb"]},
        {"tenants": [f"{number}" for number in range(1001)]},
        {"scope": ["admin"]},
        {"sub": ""},
        {"sub": "x" * 129},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"aud": []},
    ],
)
async def test_claims_that_make_no_sense_are_not_accepted(
    tmp_path: Path, claims: dict[str, Any]
) -> None:
    issuer = TokenIssuer("dev")
    file = tmp_path / "jwks.json"
    file.write_text(jwk_set(issuer))

    async with served(str(file)) as call:
        assert await call(issuer.token(**{"scope": "admin", **claims})) == "TOKEN_INVALID"


async def test_no_more_tokens_are_remembered_than_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MAX_KNOWN", 3)
    issuer = TokenIssuer("dev")
    file = tmp_path / "jwks.json"
    file.write_text(jwk_set(issuer))
    known = tokens.Tokens(str(file), ISSUER, AUDIENCE)
    await known.keys.read()

    identities = [await known.identity(issuer.token(sub=f"{number}")) for number in range(9)]

    assert [each.subject for each in identities] == [f"{number}" for number in range(9)]
    assert len(known._known) == 3  # noqa: SLF001  # what it takes in memory


IDENTITY = """
["spiffe://tidemark.example/a"]
tenants = ["acme"]
scopes = ["read"]

["CN=b,O=Acme"]
tenants = ["*"]
scopes = ["admin"]
"""


def test_identities_are_read_from_a_file() -> None:
    assert identities_of(IDENTITY.encode()) == {
        "spiffe://tidemark.example/a": Identity(
            "spiffe://tidemark.example/a", frozenset({"acme"}), frozenset({Scope.READ})
        ),
        "CN=b,O=Acme": Identity("CN=b,O=Acme", frozenset({"*"}), frozenset({Scope.ADMIN})),
    }


@pytest.mark.parametrize(
    "content",
    [
        "no TOML",
        "name = 7",
        '[a]\ntenants = ["acme"]',
        '[a]\ntenants = "acme"\nscopes = ["read"]',
        '[a]\ntenants = ["acme"]\nscopes = ["rad"]',
        '[a]\ntenants = ["acme"]\nscopes = ["read"]\nscope = "admin"',
    ],
)
def test_a_file_of_identities_that_makes_no_sense_is_refused(content: str) -> None:
    with pytest.raises(ValueError, match=r"Expected|Scope|tenants"):
        identities_of(content.encode())


@pytest.mark.parametrize(
    ("alternatives", "owner"),
    [
        ([], "CN=b"),
        ([x509.DNSName("b.example")], "CN=b"),
        (
            [x509.UniformResourceIdentifier("spiffe://tidemark.example/a")],
            "spiffe://tidemark.example/a",
        ),
        ([x509.UniformResourceIdentifier("https://tidemark.example/a")], ""),
        (
            [
                x509.UniformResourceIdentifier("spiffe://tidemark.example/a"),
                x509.UniformResourceIdentifier("spiffe://tidemark.example/b"),
            ],
            "",
        ),
    ],
)
def test_the_owner_of_a_certificate_is_its_one_spiffe_id_or_its_subject(
    alternatives: list[x509.GeneralName], owner: str
) -> None:
    certificate, _ = Authority("ca").issue("b", *alternatives)

    assert owner_of(x509.load_pem_x509_certificate(certificate)) == owner


async def test_an_identity_that_is_withdrawn_is_gone_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshed, "REFRESH_S", 0.01)
    name = x509.UniformResourceIdentifier("spiffe://tidemark.example/a")
    certificate, _ = Authority("ca").issue("a", name)
    file = tmp_path / "identities.toml"
    file.write_text(IDENTITY)
    certificates = Certificates(str(file))
    await certificates.identities.read()
    assert certificates.identity(certificate).scopes == {Scope.READ}
    refreshing = asyncio.create_task(certificates.identities.run())

    before = certificates.identities.value
    file.write_text(IDENTITY.replace("/a", "/c"))

    async with asyncio.timeout(CALL_S):
        while certificates.identities.value is before:  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0)
    with pytest.raises(Unauthenticated, match="not known"):
        certificates.identity(certificate)
    refreshing.cancel()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jwks": "jwks.json"}, "--token-issuer and --token-audience"),
        ({"jwks": "http://tidemark.example/jwks"}, "https"),
        ({"jwks": "ftp://tidemark.example/jwks"}, "https"),
        ({"identities": "identities.toml"}, "--tls-client-ca"),
    ],
)
async def test_options_that_do_not_go_together_are_refused(
    options: dict[str, str], words: str
) -> None:
    named = {"token_issuer": ISSUER, "token_audience": AUDIENCE}
    if words.startswith("--token"):
        named = {}
    with pytest.raises(Misconfigured, match=words):
        Server("127.0.0.1:0", ServerOptions(**options, **named))  # type: ignore[arg-type]  # all are texts


@pytest.mark.parametrize("content", [None, b"nonsense"])
async def test_a_server_does_not_start_without_its_keys(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "jwks.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Misconfigured, match=r"jwks\.json"):
        async with served(str(file)):
            pass


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()
