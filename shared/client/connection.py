"""Where the services are, and how a caller proves who it is."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from shared.security.tenants import TENANT_HEADER

OPTIONS = [
    # A page of about 1 MiB, and the one event that ends it.
    ("grpc.max_receive_message_length", 8 << 20),
    # What is named is the service itself, whatever proxy the environment names.
    ("grpc.enable_http_proxy", 0),
    # A service that was restarted is found again within a second, not within two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A connection that died silently is noticed within 15 s, also by a call that waits.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class Connection:
    """How to reach both services.

    Args:
        commands: HOST:PORT of the command service.
        queries: HOST:PORT of a query service.
        tenant_id: whose data it is about. None: the caller's, where the credentials are for one
            alone; without credentials, the tenant `default`.
        ca: file: the authorities of the services' certificates, PEM. Without it, no TLS.
        cert: file: the certificate to show them, PEM.
        key: file: the key of that certificate, PEM.
        token: file: the bearer token to show them, read for every call, so that it can be renewed
            there. Without TLS it is only sent within this machine.
    """

    commands: str = "127.0.0.1:50051"
    queries: str = "127.0.0.1:50052"
    tenant_id: str | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: Path | None = None

    def channel(self, address: str) -> grpc.aio.Channel:
        """A channel to one of the services.

        Raises:
            OSError: a file cannot be read.
            ValueError: certificate and key, or certificate and authorities, do not come together.
        """
        credentials = self._credentials()
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=OPTIONS)
        return grpc.aio.secure_channel(address, credentials, options=OPTIONS)

    def metadata(self, tenant_id: str | None = None) -> tuple[tuple[str, str], ...]:
        """What goes with every call; of another tenant than its own, if that is given."""
        named = tenant_id or self.tenant_id
        return ((TENANT_HEADER, named),) if named else ()

    def _credentials(self) -> grpc.ChannelCredentials | None:
        if (self.cert is None) != (self.key is None) or (self.cert and not self.ca):
            raise ValueError("A certificate goes with its key, and with the services' authorities")
        credentials = None
        if self.ca:
            credentials = grpc.ssl_channel_credentials(
                self.ca.read_bytes(),
                self.key.read_bytes() if self.key else None,
                self.cert.read_bytes() if self.cert else None,
            )
        if not self.token:
            return credentials
        # Without TLS, gRPC itself sees to it that the peer is on this machine.
        return grpc.composite_channel_credentials(
            credentials or grpc.local_channel_credentials(),
            grpc.metadata_call_credentials(_Token(self.token)),
        )


class _Token(grpc.AuthMetadataPlugin):
    """Reads the token; gRPC calls it from a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(
        self, _context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback
    ) -> None:
        try:
            token = self._path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            callback((), error)
        else:
            callback((("authorization", f"Bearer {token}"),), None)
