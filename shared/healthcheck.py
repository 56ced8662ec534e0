"""Asks a server how it is: `python -m shared.healthcheck HOST:PORT [NAME]`, for containers."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.security.misconfigured import Misconfigured
from shared.security.tls import KeyPair, read_authorities

SERVING = "SERVING"
TIMEOUT_S = 3.0

# What is asked is this address itself, whatever proxy the environment names.
OPTIONS = [("grpc.enable_http_proxy", 0)]

app = typer.Typer(add_completion=False)


async def health_of(
    address: str,
    name: str = "",
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str = "",
) -> str:
    """How a server says that something is, or why that cannot be known.

    Args:
        address: HOST:PORT of the server.
        name: of what; "" is whether the server can be sent calls.
        credentials: of the channel; None: it is not encrypted.
        server_name: whom the server's certificate is for; "": HOST.

    Returns:
        SERVING, NOT_SERVING, …, or the status of a call that failed, within 3 s.
    """
    async with _channel(address, credentials, server_name) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # it is there
        try:
            response = await check(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return " ".join(f"{error.code().name}: {error.details()}".split())
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


@app.command()
def main(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT")],
    name: Annotated[
        str,
        typer.Argument(
            help="live: it runs; projection/NAME; a gRPC service, by its full name. Without one:"
            " it can be sent calls."
        ),
    ] = "",
    ca: Annotated[
        Path | None,
        typer.Option(
            envvar="TIDEMARK_CA",
            help="File: the authorities of its certificate, PEM. Without it, no TLS.",
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(envvar="TIDEMARK_CERT", help="File: the certificate to show it, PEM."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(envvar="TIDEMARK_KEY", help="File: the key of that certificate, PEM."),
    ] = None,
    server_name: Annotated[
        str, typer.Option(help="Whom its certificate is for, where that is not HOST.")
    ] = "",
) -> None:
    """Ask a server how it is; exit code 0 for SERVING, 1 for all else."""
    try:
        credentials = _credentials(ca, cert, key)
    except (OSError, Misconfigured) as error:
        sys.stderr.write(f"healthcheck: {error}\n")
        raise typer.Exit(1) from error
    found = asyncio.run(health_of(address, name, credentials, server_name))
    sys.stdout.write(f"{' '.join(filter(None, (address, name)))}: {found}\n")
    raise typer.Exit(0 if found == SERVING else 1)


def _channel(
    address: str, credentials: grpc.ChannelCredentials | None, server_name: str
) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    override = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    return grpc.aio.secure_channel(address, credentials, options=[*OPTIONS, *override])


def _credentials(
    ca: Path | None, cert: Path | None, key: Path | None
) -> grpc.ChannelCredentials | None:
    """Those of the channel; None: it is not encrypted.

    Raises:
        OSError: a file cannot be read.
        Misconfigured: the options do not go together, or a file is not what it should be.
    """
    if (cert is None) != (key is None) or (cert and not ca):
        raise Misconfigured("--cert goes with --key, and with --ca")
    if ca is None:
        return None
    authorities = read_authorities(ca)
    if not (cert and key):
        return grpc.ssl_channel_credentials(authorities)
    pair = KeyPair.read(cert, key)
    return grpc.ssl_channel_credentials(authorities, pair.key, pair.certificate)


if __name__ == "__main__":
    app()
