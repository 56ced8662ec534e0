"""How a client reaches a service: openly, or with credentials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from examples.dev_credentials import issuer_in
from shared.client.stubs import Stub

Options = Sequence[tuple[str, Any]]
Metadata = Sequence[tuple[str, str]]

CHANNEL_OPTIONS: Options = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    # A service that was restarted, or cut off, is found again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


@dataclass(frozen=True)
class Access:
    """What a client shows.

    Args:
        credentials: of the channel; None: it is not encrypted.
        headers: of each call that does not have them itself.
        subject: who that is, as events say; empty: nobody asks.
    """

    credentials: grpc.ChannelCredentials | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    subject: str = ""

    @property
    def metadata(self) -> Metadata:
        """The headers, for a call without a stub."""
        return tuple(self.headers.items())

    def channel(self, address: str, options: Options = ()) -> grpc.aio.Channel:
        """A channel with a connection of its own."""
        all_options = [*CHANNEL_OPTIONS, *options]
        if self.credentials is None:
            return grpc.aio.insecure_channel(address, options=all_options)
        return grpc.aio.secure_channel(address, self.credentials, options=all_options)

    def stub(self, channel: grpc.aio.Channel, service: Any) -> Any:
        """A client of a service, each call of which has the headers."""
        stub = Stub(channel, service)
        if self.headers:
            for method in service.methods:
                setattr(stub, method.name, self._with_headers(getattr(stub, method.name)))
        return stub

    def _with_headers(self, rpc: Any) -> Any:
        def call(*request: Any, metadata: Metadata = (), **options: Any) -> Any:
            return rpc(*request, metadata=(*{**self.headers, **dict(metadata)}.items(),), **options)

        return call


OPEN = Access()


def certified(folder: Path, name: str = "client") -> Access:
    """With one of the certificates in a folder of development credentials."""
    return Access(tls_credentials(folder, name))


def bearer(folder: Path, headers: Mapping[str, str], **claims: Any) -> Access:
    """With a token that has these claims, and a certificate that says nothing."""
    token = issuer_in(folder).token(**claims)
    all_headers = {"authorization": f"Bearer {token}", **headers}
    return Access(tls_credentials(folder), all_headers, claims["sub"])


def anybody(folder: Path) -> Access:
    """May do everything, for the tenant `default` where none is named."""
    scope = "read write admin keys"
    return bearer(folder, {"x-tenant-id": "default"}, sub="anybody", tenants=["*"], scope=scope)


def tls_credentials(folder: Path, name: str | None = "client") -> grpc.ChannelCredentials:
    """Trusts the folder's authority, and shows one of its certificates; None: shows none."""
    authority = (folder / "ca.pem").read_bytes()
    if name is None:
        return grpc.ssl_channel_credentials(authority)
    key, certificate = (folder / f"{name}.key").read_bytes(), (folder / f"{name}.pem").read_bytes()
    return grpc.ssl_channel_credentials(authority, key, certificate)
