"""`tidemark projections` and `tidemark rebuild`: how far each has come, and building one anew."""

import asyncio
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from shared.cli.connecting import JsonOption, run
from shared.cli.output import console, flat, print_json, print_rows
from shared.client import Client
from shared.errors import Unavailable
from tidemark.v1.query_pb2 import (
    ListProjectionsRequest,
    ListProjectionsResponse,
    ProjectionStatus,
    RebuildProjectionRequest,
    RebuildProjectionResponse,
)

INTERVAL_S = 1.0
COLUMNS = ("name", "state", "position", "head", "events_behind", "seconds_behind", "fault")


def projections(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print it once, rather than live.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far each projection is behind: live on a terminal, until Ctrl-C."""
    if as_json:
        run(ctx, _print_as_json)
    elif once or not console.is_terminal:
        run(ctx, _print)
    else:
        run(ctx, _show, is_endless=True)


def rebuild(ctx: typer.Context, name: Annotated[str, typer.Argument(help="ships")]) -> None:
    """Build a projection anew from the log, beside the one that keeps answering.

    To interrupt this does not stop the rebuild, and to call it again joins it.
    """
    run(ctx, lambda client: _rebuild(client, name))


def row_of(status: ProjectionStatus) -> dict[str, Any]:
    """A projection as the table has it. None is what is not known, which is not 0."""
    behind = max(0, status.head_position - status.position)
    is_known = status.HasField("lag")
    return {
        "name": status.name,
        "state": flat(status)["state"],
        "position": status.position,
        "head": status.head_position,
        "events_behind": behind if behind or is_known else None,
        "seconds_behind": status.lag.ToMilliseconds() / 1000 if is_known else None,
        "fault": f"before position {status.fault_position}: {status.fault}" if status.fault else "",
    }


async def _rows(client: Client) -> list[dict[str, Any]]:
    response = await client.ask(ListProjectionsRequest(), ListProjectionsResponse)
    return [row_of(status) for status in response.projections]


async def _print_as_json(client: Client) -> None:
    for row in await _rows(client):
        print_json(row)


async def _print(client: Client) -> None:
    print_rows(COLUMNS, map(_said, await _rows(client)))


async def _show(client: Client) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(await _table(client), refresh=True)
            await asyncio.sleep(INTERVAL_S)


async def _table(client: Client) -> Table | str:
    try:
        rows = await _rows(client)
    except Unavailable as error:
        return f"{client.connection.queries}: {error.message}"
    table = Table(box=None, header_style="dim")
    for name in COLUMNS:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(str(_said(row)[name]) for name in COLUMNS), style=_style(row))
    return table


def _said(row: dict[str, Any]) -> dict[str, Any]:
    return {name: "unknown" if value is None else value for name, value in row.items()}


def _style(row: dict[str, Any]) -> str:
    if row["state"] == "faulted":
        return "red"
    return "green" if row["events_behind"] == 0 else "yellow"


async def _rebuild(client: Client, name: str) -> None:
    responses = client.stream(RebuildProjectionRequest(name=name), RebuildProjectionResponse)
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(name, total=None)
        position = 0
        async for response in responses:
            position = response.position
            progress.update(bar, completed=position, total=max(position, response.head_position))
            if response.done:
                break
    console.print(f"[green]✓[/] {name} [dim]rebuilt up to position {position}[/]")
