"""Options of the command line that belong together, as one parameter."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.security.authentication import AuthenticationOptions
from shared.security.limits import LimitOptions

Command = Callable[..., None]


@dataclass(frozen=True)
class ServerOptions(AuthenticationOptions, LimitOptions):
    """How both services listen. Its fields are options of the command line."""

    metrics: Annotated[
        str | None,
        typer.Option(
            envvar="TIDEMARK_METRICS",
            metavar="HOST:PORT",
            help="Where Prometheus finds metrics, by HTTP at /metrics; nowhere without it.",
        ),
    ] = None
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            envvar="TIDEMARK_INSECURE",
            help="Listen without TLS, or to anybody, where other machines can reach it.",
        ),
    ] = False
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            envvar="TIDEMARK_TLS_CERT",
            help="File: the certificate to listen with, and those up to its authority, PEM.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        typer.Option(envvar="TIDEMARK_TLS_KEY", help="File: the key of that certificate."),
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="TIDEMARK_TLS_CLIENT_CA",
            help="File: the authorities that every client has to show a certificate of.",
        ),
    ] = None
    no_reflection: Annotated[
        bool,
        typer.Option(
            "--no-reflection",
            envvar="TIDEMARK_NO_REFLECTION",
            help="Do not tell clients of services and messages.",
        ),
    ] = False
    channelz: Annotated[
        bool,
        typer.Option(
            "--channelz",
            envvar="TIDEMARK_CHANNELZ",
            help="Tell who has the scope admin of connections: grpc.channelz.v1.",
        ),
    ] = False


def takes(**groups: type[Any]) -> Callable[[Command], Command]:
    """Has a command take the fields of dataclasses as its options, and get them as those.

    Args:
        groups: the dataclass, by the name of the command's parameter.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            for name, group in groups.items():
                own = {field.name: values.pop(field.name) for field in fields(group)}
                values[name] = group(**own)
            command(**values)

        signature = inspect.signature(command)
        parameters = [each for name, each in signature.parameters.items() if name not in groups]
        for group in groups.values():
            parameters += [
                each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                for each in inspect.signature(group).parameters.values()
            ]
        ordered = sorted(parameters, key=lambda each: each.kind)
        run.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]  # inspect reads it
        return run

    return decorate
