"""How a client reaches a service: openly, or with credentials."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

Options = Sequence[tuple[str, Any]]

CHANNEL_OPTIONS: Options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


@dataclass(frozen=True)
class Access:
    """What a client shows.

    Args:
        credentials: of the channel; None: it is not encrypted.
    """

    credentials: grpc.ChannelCredentials | None = None

    def channel(self, address: str, options: Options = ()) -> grpc.aio.Channel:
        """A channel with a connection of its own."""
        all_options = [*CHANNEL_OPTIONS, *options]
        if self.credentials is None:
            return grpc.aio.insecure_channel(address, options=all_options)
        return grpc.aio.secure_channel(address, self.credentials, options=all_options)


OPEN = Access()


def certified(folder: Path, name: str = "client") -> Access:
    """With one of the certificates in a folder of development credentials."""
    return Access(tls_credentials(folder, name))


def tls_credentials(folder: Path, name: str | None = "client") -> grpc.ChannelCredentials:
    """Trusts the folder's authority, and shows one of its certificates; None: shows none."""
    authority = (folder / "ca.pem").read_bytes()
    if name is None:
        return grpc.ssl_channel_credentials(authority)
    key, certificate = (folder / f"{name}.key").read_bytes(), (folder / f"{name}.pem").read_bytes()
    return grpc.ssl_channel_credentials(authority, key, certificate)
