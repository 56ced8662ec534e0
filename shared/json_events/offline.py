"""Export and import as commands, on a log that no service is running on."""

import sys
from typing import Annotated, TextIO

import typer

from shared.json_events.exporting import Format, export_log
from shared.json_events.importing import ImportRefused, import_events
from shared.json_events.reading import events_in
from shared.log.log import OutcomeUnknown
from shared.log.opening import FORMS, may_be_there, open_log
from shared.log.options import check_log
from shared.process import die_of_unknown_outcome, run
from shared.service_log import LogLevel

FormatOption = Annotated[
    Format,
    typer.Option(
        "--format", help="json, which can be imported again, or CloudEvents 1.0: one a line."
    ),
]
LogOption = Annotated[
    str, typer.Option("--log", envvar="TIDEMARK_LOG", help=f"Where the events are: {FORMS}.")
]
FileArgument = Annotated[
    typer.FileText, typer.Argument(encoding="utf-8", help="What was exported; - is standard input.")
]


def export_command(log: LogOption, form: FormatOption = Format.JSON) -> None:
    """Write every event of a log to standard output, as JSON, one a line.

    On the log itself: the service must not be running. From a running one: tidemark export.
    """
    check_log(log, "--log")
    if not may_be_there(log):
        raise typer.BadParameter(f"There is no {log}", param_hint="--log")
    run("export", _export(log, form), LogLevel.WARNING)


def import_command(file: FileArgument, log: LogOption) -> None:
    """Bring exported events into a log, all that are not there yet, or none.

    On the log itself, which is made if it is not there: the service must not be running. Ids,
    versions and times stay; positions too, unless the log already goes beyond them. What is there
    already is left as it is. Two older formats are read as well.
    """
    check_log(log, "--log")
    try:
        run("import", _import(log, file), LogLevel.WARNING)
    except ImportRefused as refused:
        sys.stderr.write("\n".join([*refused.problems, "Nothing was imported.\n"]))
        raise typer.Exit(1) from refused


async def _export(url: str, form: Format) -> None:
    log = await open_log(url)
    try:
        await export_log(log, form, sys.stdout.write)
    finally:
        await log.close()


async def _import(url: str, file: TextIO) -> None:
    log = await open_log(url)
    try:
        imported = await import_events(log, events_in(file))
    except OutcomeUnknown as error:
        die_of_unknown_outcome(error)
    finally:
        await log.close()
    for sentence in imported.sentences():
        sys.stderr.write(f"{sentence}\n")
