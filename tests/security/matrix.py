"""Every RPC of both services with every kind of credentials, as `make matrix` prints it.

Each call sends bytes that are no message. So whoever is let in is told that, and who is not, is
told something else: nobody learns what is wrong with a request that they may not make.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from rich.console import Console
from rich.table import Table

from examples.dev_credentials import TokenIssuer, developer_claims
from shared.grpc_services import CHANNELZ, HEALTH, REFLECTION
from shared.security.authorization import DEMANDS, Demand, Open
from shared.security.identity import Scope
from shared.security.tokens import LEEWAY_S
from tests.security.secured import ROLES, Secured, authorization, secured
from tests.services.access import Access, Metadata
from tests.services.serving import SERVICES

NO_MESSAGE = b"\xff"
CALL_S = 15.0
CLIENT_RACE = "Internal error from Core"
"""What gRPC's client says of a stream now and then that was refused while it was still sending."""

LET_IN = "in"
UNAUTHENTICATED = "UNAUTHENTICATED"
PERMISSION_DENIED = "PERMISSION_DENIED"


@dataclass(frozen=True)
class Credentials:
    """One column.

    Args:
        certificate: the name of the one that the connection shows.
        metadata: of the call.
        scopes: that they give.
        refusal: what every RPC answers them that demands something; empty: they are good.
    """

    certificate: str
    metadata: Metadata
    scopes: Collection[str] = ()
    refusal: str = ""

    def outcome(self, demand: Demand) -> str:
        """What they have to get from an RPC."""
        if demand is Open.TO_ANYBODY:
            return LET_IN
        if self.refusal == UNAUTHENTICATED:
            return UNAUTHENTICATED
        if demand is Open.TO_THE_KNOWN:
            return LET_IN
        return self.refusal or (LET_IN if demand in self.scopes else PERMISSION_DENIED)


def all_credentials(both: Secured) -> dict[str, Credentials]:
    """The columns, by their names."""
    issuer = both.issuer
    every = " ".join(Scope)
    bad = {
        "expired": issuer.token(scope=every, exp=int(time.time() - 2 * LEEWAY_S)),
        "not valid yet": issuer.token(scope=every, nbf=int(time.time() + 600)),
        "without expiry": _without("exp", issuer),
        "without subject": _without("sub", issuer),
        "wrong issuer": issuer.token(scope=every, iss="https://elsewhere.example"),
        "wrong audience": issuer.token(scope=every, aud="another service"),
        "wrong key": TokenIssuer("dev").token(scope=every),
        "unknown key": TokenIssuer("another").token(scope=every),
        "another kind of key": jwt.encode(
            developer_claims(), rsa.generate_private_key(65537, 2048), "RS256", {"kid": "dev"}
        ),
        "alg none": _unsigned(issuer),
        "HS256 by public key": _by_public_key(issuer),
        "altered": _altered(issuer.token(scope="read")),
        "no token at all": "x" * 100,
    }
    columns = {
        "none": _bad(()),
        "Basic": _bad((("authorization", "Basic eDp4"),)),
        "two tokens": _bad((*authorization(issuer.token()), *authorization(issuer.token()))),
        **{name: _bad(authorization(token)) for name, token in bad.items()},
        "expired, with a good certificate": _bad(authorization(bad["expired"]), "reader"),
        "no scope": Credentials("client", authorization(issuer.token(scope=""))),
        "no tenant": _for("acme", issuer.token(scope=every, tenants=[]), (), PERMISSION_DENIED),
        "no tenant, and none named": Credentials(
            "client", authorization(issuer.token(scope=every, tenants=[])), {Scope.ADMIN}
        ),
        "wrong tenant": _for("other", issuer.token(scope=every), (), PERMISSION_DENIED),
        "every tenant, not admin": _for(
            "*", issuer.token(scope="read write", tenants=["*"]), (), PERMISSION_DENIED
        ),
        "every tenant, of one": _for("*", issuer.token(scope=every), (), PERMISSION_DENIED),
        "right": _for("acme", issuer.token(scope=every), frozenset(Scope)),
    }
    for scope in Scope:
        columns[f"{scope} token"] = _for("acme", issuer.token(scope=scope), {scope})
    for role, scope_name in ROLES.items():
        columns[f"{scope_name} certificate"] = Credentials(role, (), {scope_name})
    return columns


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    """Every RPC of each service, and which has it."""
    pool = descriptor_pool.Default()
    for module, names in SERVICES.items():
        services = [*map(pool.FindServiceByName, names), HEALTH, REFLECTION, CHANNELZ]
        yield from ((module, method) for service in services for method in service.methods)


async def outcomes(both: Secured) -> dict[tuple[str, str, str], tuple[str, str]]:
    """By module, RPC and credentials: what has to come of it, and what came."""
    columns = all_credentials(both)
    channels = {
        (module, certificate): Access(both.tls(certificate)).channel(address)
        for module, address in (
            ("command_service", both.command.address),
            ("query_service", both.query.address),
        )
        for certificate in {each.certificate for each in columns.values()}
    }
    found = {}
    try:
        for module, method in methods():
            for name, credentials in columns.items():
                channel = channels[module, credentials.certificate]
                came = await _outcome(channel, method, credentials.metadata)
                wanted = credentials.outcome(DEMANDS[method.full_name])
                found[module, method.full_name, name] = (wanted, came)
    finally:
        for channel in channels.values():
            await channel.close()
    return found


async def _outcome(channel: Any, method: MethodDescriptor, metadata: Metadata) -> str:
    path = f"/{method.containing_service.full_name}/{method.name}"
    options = {"metadata": metadata, "timeout": CALL_S}
    try:
        if method.client_streaming:
            await channel.stream_stream(path)(iter([NO_MESSAGE]), **options).read()
        elif method.server_streaming:
            await channel.unary_stream(path)(NO_MESSAGE, **options).read()
        else:
            await channel.unary_unary(path)(NO_MESSAGE, **options)
    except grpc.aio.AioRpcError as error:
        code: str = error.code().name
        if code in {UNAUTHENTICATED, PERMISSION_DENIED}:
            return code
        if error.details() == CLIENT_RACE:
            return await _outcome(channel, method, metadata)
        # gRPC's own answer of a health check, which takes messages, is UNKNOWN or INTERNAL.
        is_told = code in {"INVALID_ARGUMENT", "UNIMPLEMENTED"} or "Health" in path
        return LET_IN if is_told else code
    return LET_IN


def _bad(metadata: Metadata, certificate: str = "client") -> Credentials:
    return Credentials(certificate, metadata, (), UNAUTHENTICATED)


def _for(tenant_id: str, token: str, scopes: Collection[str], refusal: str = "") -> Credentials:
    metadata = (*authorization(token), ("x-tenant-id", tenant_id))
    return Credentials("client", metadata, scopes, refusal)


def _without(claim: str, issuer: TokenIssuer) -> str:
    claims = developer_claims()
    del claims[claim]
    return jwt.encode(claims, issuer.key, "ES256", {"kid": issuer.key_id})


def _unsigned(issuer: TokenIssuer) -> str:
    header = {"alg": "none", "typ": "JWT", "kid": issuer.key_id}
    return f"{_base64url(header)}.{_base64url(developer_claims())}."


def _by_public_key(issuer: TokenIssuer) -> str:
    """Signed with what everybody knows, in the hope that it is taken for a secret."""
    public = issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "typ": "JWT", "kid": issuer.key_id}
    signed = f"{_base64url(header)}.{_base64url(developer_claims())}"
    signature = hmac.new(public, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _altered(token: str) -> str:
    """The same signature under more scopes."""
    header, claims, signature = token.split(".")
    said: dict[str, Any] = json.loads(base64.urlsafe_b64decode(claims + "=="))
    return f"{header}.{_base64url({**said, 'scope': 'read write admin'})}.{signature}"


def _base64url(content: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


async def main() -> int:
    """Prints the matrix.

    Returns:
        The exit code: 1 if a cell is not as it has to be.
    """
    with tempfile.TemporaryDirectory() as folder:
        async with secured(Path(folder), "--channelz") as both:
            found = await outcomes(both)
    columns = list(dict.fromkeys(name for *_, name in found))
    for module in SERVICES:
        table = Table("RPC", *(str(number) for number, _ in enumerate(columns, 1)), title=module)
        rows = dict.fromkeys(rpc for of, rpc, _ in found if of == module)
        for rpc in rows:
            table.add_row(rpc, *(_cell(*found[module, rpc, name]) for name in columns))
        Console(width=180).print(table)
    for number, name in enumerate(columns, 1):
        sys.stdout.write(f"{number:4} {name}\n")
    wrong = [cell for cell, (wanted, came) in found.items() if wanted != came]
    counted = Counter(came for _, came in found.values())
    summary = ", ".join(f"{count} {came}" for came, count in sorted(counted.items()))
    sys.stdout.write(f"\n{len(found)} cells: {summary}; {len(wrong)} not as they have to be\n")
    return 1 if wrong else 0


def _cell(wanted: str, came: str) -> str:
    mark = {LET_IN: "+", UNAUTHENTICATED: "?", PERMISSION_DENIED: "-"}.get(came, came)
    return mark if wanted == came else f"!{mark}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
