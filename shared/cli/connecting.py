"""What every command does: reach the services, do its work, say what went wrong."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from google.rpc.code_pb2 import Code
from rich.markup import escape

from shared.cli.output import errors
from shared.client import Client
from shared.client.connection import Connection
from shared.errors import InvalidFields, TidemarkError
from shared.json_messages import JsonObject

JsonOption = Annotated[bool, typer.Option("--json", help="JSON, one object a line.")]


def connect(
    ctx: typer.Context,
    commands: Annotated[
        str, typer.Option(envvar="TIDEMARK_COMMANDS", help="HOST:PORT of the command service.")
    ] = Connection.commands,
    queries: Annotated[
        str, typer.Option(envvar="TIDEMARK_QUERIES", help="HOST:PORT of a query service.")
    ] = Connection.queries,
    tenant: Annotated[
        str | None,
        typer.Option(
            envvar="TIDEMARK_TENANT",
            help="Whose data it is about. Without it: the caller's only tenant, or `default`.",
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            envvar="TIDEMARK_CA",
            exists=True,
            help="File: the authorities of the services' certificates, PEM. Without it, no TLS.",
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            envvar="TIDEMARK_CERT", exists=True, help="File: the certificate to show them, PEM."
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            envvar="TIDEMARK_KEY", exists=True, help="File: the key of that certificate, PEM."
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="TIDEMARK_TOKEN_FILE", exists=True, help="File: the bearer token to show them."
        ),
    ] = None,
) -> None:
    """Commands in; durable events, state, history and live events out.

    What is piped is plain text, and whatever answers has --json.
    """
    ctx.obj = Connection(commands, queries, tenant, ca, cert, key, token_file)


def run(
    ctx: typer.Context,
    work: Callable[[Client], Coroutine[Any, Any, None]],
    *,
    is_endless: bool = False,
) -> None:
    """Does something with a client of the services.

    Args:
        ctx: has the connection.
        work: what to do.
        is_endless: it is meant to be ended by Ctrl-C.

    Raises:
        typer.Exit: with code 1: refused or failed; standard error has why.
        typer.BadParameter: the options do not go together.
    """
    try:
        asyncio.run(_with_client(ctx.obj, work))
    except TidemarkError as error:
        _say(error, as_json=bool(ctx.params.get("as_json")))
        raise typer.Exit(1) from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except KeyboardInterrupt:
        if not is_endless:
            raise


async def _with_client(
    connection: Connection, work: Callable[[Client], Coroutine[Any, Any, None]]
) -> None:
    async with Client(connection) as client:
        await work(client)


def _say(error: TidemarkError, *, as_json: bool) -> None:
    if as_json:
        sys.stderr.write(json.dumps({"error": _described(error)}) + "\n")
        return
    errors.print(f"[red]✗[/] {escape(error.message)}")
    errors.print(f"  [dim]{Code.Name(error.code)}, {escape(error.reason)}[/]")


def _described(error: TidemarkError) -> JsonObject:
    violations = error.violations if isinstance(error, InvalidFields) else ()
    return {
        "code": Code.Name(error.code),
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "violations": [each._asdict() for each in violations],
    }
