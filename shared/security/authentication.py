"""Who is calling: one place that turns either kind of credentials into an identity."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from shared.errors import Unauthenticated
from shared.security.certificates import Certificates
from shared.security.identity import Identity
from shared.security.misconfigured import Misconfigured
from shared.security.refreshed import Refreshed
from shared.security.tenants import Headers
from shared.security.tokens import Tokens

HEADER = "authorization"
BEARER = "bearer"

Connection = Callable[[], Mapping[str, Iterable[bytes]]]
"""Gives what TLS knows of a call's connection."""


@dataclass(frozen=True)
class AuthenticationOptions:
    """Whose credentials are good. Its fields are options of the command line."""

    jwks: Annotated[
        str | None,
        typer.Option(
            envvar="TIDEMARK_JWKS", help="File or https URL: the keys that verify bearer tokens."
        ),
    ] = None
    token_issuer: Annotated[
        str | None,
        typer.Option(envvar="TIDEMARK_TOKEN_ISSUER", help="The iss that a token has to have."),
    ] = None
    token_audience: Annotated[
        str | None,
        typer.Option(envvar="TIDEMARK_TOKEN_AUDIENCE", help="The aud that a token has to have."),
    ] = None
    identities: Annotated[
        str | None,
        typer.Option(
            envvar="TIDEMARK_IDENTITIES",
            help="TOML file: tenants and scopes of the owners of clients' certificates.",
        ),
    ] = None


class Authentication:
    """Looks at credentials. A token goes before a certificate, which may be the connection's alone.

    Args:
        options: whose credentials are good.
        has_client_certificates: whether TLS verifies some.

    Raises:
        Misconfigured: the options do not go together.
    """

    def __init__(self, options: AuthenticationOptions, *, has_client_certificates: bool) -> None:
        self._tokens: Tokens | None = None
        if options.jwks:
            if not (options.token_issuer and options.token_audience):
                raise Misconfigured("--jwks needs --token-issuer and --token-audience")
            self._tokens = Tokens(options.jwks, options.token_issuer, options.token_audience)
        self._certificates: Certificates | None = None
        if options.identities:
            if not has_client_certificates:
                raise Misconfigured("--identities needs --tls-client-ca")
            self._certificates = Certificates(options.identities)

    @property
    def is_on(self) -> bool:
        """Whether anybody is asked; otherwise the caller is whoever they say."""
        return bool(self._sources())

    async def read(self) -> None:
        """Reads what the options name.

        Raises:
            Misconfigured: something there is not what it should be.
        """
        for source in self._sources():
            await source.read()

    async def run(self) -> None:
        """Keeps it fresh, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for source in self._sources():
                tasks.create_task(source.run(), name="refresh credentials")

    async def identity(self, headers: Headers, connection: Connection) -> Identity:
        """Who calls.

        Args:
            headers: of the call.
            connection: gives what TLS knows of it.

        Raises:
            Unauthenticated: that cannot be told.
        """
        given = [value for name, value in headers if name == HEADER]
        if len(given) > 1:
            raise Unauthenticated("CREDENTIALS_MISSING", "There is more than one authorization")
        if given:
            return await self._owner_of(given[0])
        if self._certificates is not None:
            return self._owner_of_certificate(self._certificates, connection())
        raise Unauthenticated("CREDENTIALS_MISSING", "There is no bearer token")

    async def _owner_of(self, authorization: str | bytes) -> Identity:
        kind, _, token = str(authorization).partition(" ")
        if self._tokens is None or kind.lower() != BEARER:
            raise Unauthenticated("CREDENTIALS_MISSING", "This is no bearer token")
        return await self._tokens.identity(token.strip())

    @staticmethod
    def _owner_of_certificate(
        certificates: Certificates, connection: Mapping[str, Iterable[bytes]]
    ) -> Identity:
        shown = list(connection.get("x509_pem_cert", ()))
        if not shown:
            raise Unauthenticated("CREDENTIALS_MISSING", "There is no certificate, and no token")
        identity = certificates.identity(shown[0])
        if time.time() >= identity.expires_at:
            raise identity.expired
        return identity

    def _sources(self) -> list[Refreshed[Any]]:
        sources: list[Refreshed[Any]] = []
        if self._tokens is not None:
            sources.append(self._tokens.keys)
        if self._certificates is not None:
            sources.append(self._certificates.identities)
        return sources
