"""Copying a log, as a command with its progress on a terminal."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from command_service.copying import Progress as Told
from command_service.copying import Step, copy_log
from command_service.keys.copying import copy_keys
from command_service.keys.opening import open_keys
from shared.log.log import EventLog, OutcomeUnknown
from shared.log.opening import FORMS, may_be_there, open_log, shown
from shared.log.options import AllowDataLoss, check_log
from shared.process import die_of_unknown_outcome, run
from shared.service_log import LogLevel


def copy_command(
    source: Annotated[str, typer.Option("--from", help=f"The log to copy: {FORMS}.")],
    target: Annotated[str, typer.Option("--to", help="The log to copy it into, in the same form.")],
    allow_data_loss: AllowDataLoss = False,
) -> None:
    """Copy a log into another, which is empty or was begun before; positions stay what they are."""
    check_log(source, "--from")
    check_log(target, "--to")
    if not may_be_there(source):
        raise typer.BadParameter(f"There is no {source}", param_hint="--from")
    run("copy", _copy(source, target, allow_data_loss), LogLevel.WARNING)


async def _copy(source: str, target: str, allow_data_loss: bool) -> None:
    async with (
        _opened(source, allow_data_loss) as original,
        _opened(target, allow_data_loss) as copied,
    ):
        try:
            with _shown_progress() as progress:
                head = await copy_log(original, copied, progress)
        except OutcomeUnknown as error:
            die_of_unknown_outcome(error)
        has_moved = await original.newest() != head
    typer.echo(f"{shown(target)} has position {head.position}, digest {head.digest.hex()}")
    if has_moved:
        typer.echo(
            "Somebody writes to the source: stop that, and copy again for the rest", err=True
        )


def copy_keys_command(
    source: Annotated[str, typer.Option("--from", help=f"The keys to copy: {FORMS}.")],
    target: Annotated[str, typer.Option("--to", help="Where to copy them, in the same form.")],
    allow_data_loss: AllowDataLoss = False,
) -> None:
    """Copy the keys of personal fields into another store; what was destroyed in either stays so.

    A store on SQLite must not be in use.
    """
    check_log(source, "--from")
    check_log(target, "--to")
    if not may_be_there(source):
        raise typer.BadParameter(f"There is no {source}", param_hint="--from")
    run("copy-keys", _copy_keys(source, target, allow_data_loss), LogLevel.WARNING)


async def _copy_keys(source: str, target: str, allow_data_loss: bool) -> None:
    async with AsyncExitStack() as stores:
        original = await open_keys(source, allow_data_loss=allow_data_loss)
        stores.push_async_callback(original.close)
        copied = await open_keys(target, allow_data_loss=allow_data_loss)
        stores.push_async_callback(copied.close)
        try:
            count = await copy_keys(original, copied)
        except OutcomeUnknown as error:
            die_of_unknown_outcome(error)
    typer.echo(f"{shown(target)} has all {count} keys")


@asynccontextmanager
async def _opened(url: str, allow_data_loss: bool) -> AsyncIterator[EventLog]:
    log = await open_log(url, allow_data_loss=allow_data_loss)
    try:
        yield log
    finally:
        await log.close()


@contextmanager
def _shown_progress() -> Iterator[Told]:
    """A bar for each step on standard error, if that is a terminal; otherwise nothing."""
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[Step, TaskID] = {}

    def show(step: Step, position: int, end: int) -> None:
        if step not in tasks:
            tasks[step] = bars.add_task(step)
        bars.update(tasks[step], completed=position, total=end)

    with bars:
        yield show
