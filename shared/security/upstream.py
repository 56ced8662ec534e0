"""The service that is followed, and how to prove to it who asks."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer

from shared.security.listening import is_loopback
from shared.security.misconfigured import Misconfigured
from shared.security.tls import KeyPair, read_authorities

OPTIONS = [
    # A page of about 1 MiB, and the one event that ends it.
    ("grpc.max_receive_message_length", 8 << 20),
    # What is named is the service itself, whatever proxy the environment names.
    ("grpc.enable_http_proxy", 0),
    # Each attempt connects anew, rather than by a connection that others have left behind.
    ("grpc.use_local_subchannel_pool", 1),
]

Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Upstream:
    """The command service, or another query service. Its fields are options of the command line.

    The files are read for every connection, so that what is renewed there is used from the next
    one on.
    """

    upstream: Annotated[
        str,
        typer.Option(
            envvar="TIDEMARK_UPSTREAM",
            help="HOST:PORT of the command service, or of another query service, to follow.",
        ),
    ] = "127.0.0.1:50051"
    upstream_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="TIDEMARK_UPSTREAM_CA",
            help="File: the authorities of its certificate, PEM. Without it, no TLS.",
        ),
    ] = None
    upstream_cert: Annotated[
        Path | None,
        typer.Option(envvar="TIDEMARK_UPSTREAM_CERT", help="File: the certificate to show it."),
    ] = None
    upstream_key: Annotated[
        Path | None,
        typer.Option(envvar="TIDEMARK_UPSTREAM_KEY", help="File: the key of that certificate."),
    ] = None
    upstream_token: Annotated[
        Path | None,
        typer.Option(envvar="TIDEMARK_UPSTREAM_TOKEN", help="File: the bearer token to show it."),
    ] = None

    def check(self, *, insecure: bool = False) -> None:
        """Looks whether a connection could be tried.

        Args:
            insecure: whether the network is trusted with what is answered.

        Raises:
            OSError: a file cannot be read.
            Misconfigured: the options do not go together, or a file is not what it should be.
        """
        if (self.upstream_cert is None) != (self.upstream_key is None):
            raise Misconfigured("--upstream-cert and --upstream-key go together")
        if self.upstream_cert and not self.upstream_ca:
            raise Misconfigured("--upstream-cert needs --upstream-ca")
        if self.upstream_token and not (self.upstream_ca or is_loopback(self.upstream)):
            raise Misconfigured(
                f"A token would go to {self.upstream} in plain text: give --upstream-ca"
            )
        if not (insecure or self.upstream_ca or is_loopback(self.upstream)):
            raise Misconfigured(
                f"{self.upstream} is another machine, and without TLS its answers, keys among them,"
                " can be read on the way: give --upstream-ca, or say --insecure if the network is"
                " trusted"
            )
        self._credentials()
        self._metadata()

    async def connect(self) -> tuple[grpc.aio.Channel, Metadata]:
        """A channel of its own, and the metadata to call with.

        Raises:
            OSError: a file cannot be read.
            Misconfigured: a file is not what it should be.
        """
        credentials, metadata = await asyncio.to_thread(
            lambda: (self._credentials(), self._metadata())
        )
        if credentials is None:
            return grpc.aio.insecure_channel(self.upstream, options=OPTIONS), metadata
        return grpc.aio.secure_channel(self.upstream, credentials, options=OPTIONS), metadata

    def _credentials(self) -> grpc.ChannelCredentials | None:
        if not self.upstream_ca:
            return None
        authorities = read_authorities(self.upstream_ca)
        if not (self.upstream_cert and self.upstream_key):
            return grpc.ssl_channel_credentials(authorities)
        pair = KeyPair.read(self.upstream_cert, self.upstream_key)
        return grpc.ssl_channel_credentials(authorities, pair.key, pair.certificate)

    def _metadata(self) -> Metadata:
        if not self.upstream_token:
            return ()
        token = self.upstream_token.read_text(encoding="ascii").strip()
        return (("authorization", f"Bearer {token}"),)
