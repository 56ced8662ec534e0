"""Both services with everything asked for: TLS, certificates, tokens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from examples.dev_credentials import (
    DEVELOPER,
    IDENTITIES,
    LIFETIME,
    Authority,
    TokenIssuer,
    issuer_in,
    make,
    server_options,
    upstream_options,
    write_private,
)
from examples.services import Service, start_command_service, start_query_service
from tests.services.access import Access, Metadata, tls_credentials
from tests.services.deployment import CommandClient, QueryClient

SPIFFE = "spiffe://tidemark.example/"
ROLES = {"reader": "read", "writer": "write", "administrator": "admin", "keeper": "keys"}
"""Owners of certificates of the tenant acme, and the one scope that each has."""


class Secured:
    """Both services, and whatever credentials a test wants. Made by `secured`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.credentials = folder / "credentials"
        self.command: Service
        self.query: Service
        self.issuer: TokenIssuer
        self.authority = Authority("Tidemark tests")

    async def start(self, *options: str) -> None:
        """Starts both, with these options beside those of security."""
        make(self.credentials)
        self.issuer = issuer_in(self.credentials)
        self._add_certificates()
        server = self._server = [*server_options(self.credentials), *options]
        self.command = await start_command_service(
            self.folder, "127.0.0.1:0", *server, log=self.folder / "command.log"
        )
        self.query = await start_query_service(
            self.folder,
            self.command.address,
            "127.0.0.1:0",
            *server,
            *upstream_options(self.credentials),
            log=self.folder / "query.log",
        )

    async def restart_command(self) -> None:
        """Stops the command service and starts it again, where it was."""
        await self.command.stop()
        log = self.folder / "command.log"
        self.command = await start_command_service(
            self.folder, self.command.address, *self._server, log=log
        )

    async def stop(self) -> None:
        """Stops what runs, which has to end well."""
        for name in ("query", "command"):
            if hasattr(self, name):
                assert await getattr(self, name).stop() == 0

    def commands(self, access: Access) -> CommandClient:
        """A client of the command service."""
        return CommandClient(self.command.address, access)

    def queries(self, access: Access) -> QueryClient:
        """A client of the query service."""
        return QueryClient(self.query.address, access)

    def bearer(self, *, tenant_id: str = "", **claims: Any) -> Access:
        """With a token of these claims, beside a certificate that says nothing."""
        headers = dict(authorization(self.issuer.token(**claims)))
        if tenant_id:
            headers["x-tenant-id"] = tenant_id
        return Access(self.tls("client"), headers, str(claims.get("sub", DEVELOPER)))

    def issue(self, role: str, lifetime: timedelta = LIFETIME) -> None:
        """Gives a role a certificate, in the place of the one before."""
        name = x509.UniformResourceIdentifier(SPIFFE + role)
        certificate, key = self.authority.issue(role, name, lifetime=lifetime)
        write_private(self.credentials / f"{role}.pem", certificate)
        write_private(self.credentials / f"{role}.key", key)

    def tls(self, name: str) -> Any:
        """The credentials of a channel that shows a certificate."""
        return tls_credentials(self.credentials, name)

    def _add_certificates(self) -> None:
        """Adds an authority of the tests' own, and certificates for each role."""
        known = IDENTITIES
        for role, scope in ROLES.items():
            self.issue(role)
            known += f'\n["{SPIFFE}{role}"]\ntenants = ["acme"]\nscopes = ["{scope}"]\n'
        write_private(self.credentials / "identities.toml", known)
        trusted = (self.credentials / "ca.pem").read_bytes() + self.authority.certificate
        write_private(self.credentials / "ca.pem", trusted)


@asynccontextmanager
async def secured(folder: Path, *options: str) -> AsyncIterator[Secured]:
    """Both services, running."""
    both = Secured(folder)
    try:
        await both.start(*options)
        yield both
    finally:
        await both.stop()


def authorization(token: str) -> Metadata:
    """The header of a call with a token."""
    return (("authorization", f"Bearer {token}"),)
