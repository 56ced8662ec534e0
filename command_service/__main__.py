"""The command service: wiring, and the command line."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import structlog
import typer

from command_service.aggregates import RULES
from command_service.bulk import BulkCommands
from command_service.command import CommandTypes
from command_service.copy_command import copy_command, copy_keys_command
from command_service.erasures import Erasures
from command_service.executor import Executor
from command_service.gauges import Gauges
from command_service.handlers import Commands
from command_service.key_service import KeyService
from command_service.keys.opening import KeysOption, keys_of, open_keys
from shared.event_log_service import EventLogService
from shared.json_events.offline import export_command, import_command
from shared.log.log import OutcomeUnknown
from shared.log.opening import FORMS, SQLITE, open_log, shown
from shared.log.options import AllowDataLoss, check_log
from shared.log.sqlite.backup import back_up
from shared.log.sqlite.verifying import opened, verify_log
from shared.options import ServerOptions, takes
from shared.process import LogLevelOption, announce, die_of_unknown_outcome, run
from shared.rpc import methods_of
from shared.server import Server
from shared.service_log import LogLevel
from shared.telemetry.exposition import exposing
from shared.telemetry.metrics import OF_COMMANDS
from shared.verification import Verification, exit_code
from tidemark.v1 import command_pb2, event_pb2, personal_pb2

NAME = "command_service"
AGGREGATES = [rules.aggregate for rules in RULES]

LogOption = Annotated[
    str, typer.Option(envvar="TIDEMARK_LOG", help=f"Where the events are kept: {FORMS}.")
]
DEFAULT_LOG = "sqlite:data/log.db"

logger = structlog.get_logger(NAME)
app = typer.Typer(no_args_is_help=True, add_completion=False)
app.command("copy")(copy_command)
app.command("copy-keys")(copy_keys_command)
app.command("export")(export_command)
app.command("import")(import_command)


@app.callback()
def main() -> None:
    """Takes commands, decides them against aggregates, and appends the events to the log."""


@app.command()
@takes(options=ServerOptions)
def serve(
    listen: Annotated[
        str, typer.Option(envvar="TIDEMARK_LISTEN", help="HOST:PORT; port 0 is a free one.")
    ] = "127.0.0.1:50051",
    log: LogOption = DEFAULT_LOG,
    keys: KeysOption = None,
    allow_data_loss: AllowDataLoss = False,
    max_commands: Annotated[
        int,
        typer.Option(
            envvar="TIDEMARK_MAX_COMMANDS",
            min=2,
            help="Commands in flight; beyond, RESOURCE_EXHAUSTED.",
        ),
    ] = 16_384,
    max_commands_per_tenant: Annotated[
        int,
        typer.Option(
            envvar="TIDEMARK_MAX_COMMANDS_PER_TENANT",
            min=1,
            help="Commands of one tenant in flight; beyond, RESOURCE_EXHAUSTED.",
        ),
    ] = 4_096,
    log_level: LogLevelOption = LogLevel.INFO,
    *,
    options: ServerOptions,
) -> None:
    """Serve commands, and the log that they fill, until SIGTERM or Ctrl-C."""
    check_log(log, "--log")
    urls = log, keys_of(log, keys)
    limits = max_commands, max_commands_per_tenant
    run(NAME, _serve(listen, *urls, allow_data_loss, *limits, options), log_level)


@app.command()
def verify(log: LogOption = DEFAULT_LOG) -> None:
    """Verify a log from its first event to its last, while a service runs on it or not.

    Exit code 0: nothing was found; 1: something was, and is told; 2: it cannot be read.
    """
    raise typer.Exit(exit_code(NAME, partial(_verify, _path(log))))


@app.command()
def backup(
    to: Annotated[Path, typer.Option(help="File to be made.", dir_okay=False)],
    log: LogOption = DEFAULT_LOG,
) -> None:
    """Copy a log as it is at this moment, while a service runs on it or not, and verify the copy.

    Exit code 0: nothing was found; 1: something was, and is told; 2: there is no copy.
    """
    raise typer.Exit(exit_code(NAME, partial(_back_up, _path(log), to)))


def _path(log: str) -> Path:
    check_log(log, "--log")
    if not log.startswith(SQLITE):
        raise typer.BadParameter(
            "This is for a log on SQLite. One on PostgreSQL: back it up with its own tools, and"
            " verify the copy of a query service that follows it",
            param_hint="--log",
        )
    return Path(log.removeprefix(SQLITE))


def _verify(path: Path, verification: Verification) -> None:
    with opened(path) as db:
        verify_log(db, AGGREGATES, verification)


def _back_up(path: Path, target: Path, verification: Verification) -> None:
    back_up(path, target, verification)
    _verify(target, verification)


async def _serve(
    listen: str,
    url: str,
    keys_url: str,
    allow_data_loss: bool,
    max_commands: int,
    max_commands_per_tenant: int,
    options: ServerOptions,
) -> None:
    types = CommandTypes(RULES)
    async with Server(listen, options) as server, AsyncExitStack() as opened_stores:
        log = await open_log(url, allow_data_loss=allow_data_loss)
        opened_stores.push_async_callback(log.close)
        keys = await open_keys(keys_url, allow_data_loss=allow_data_loss)
        opened_stores.push_async_callback(keys.close)
        erasures = Erasures(log, AGGREGATES, keys)
        await erasures.look()
        executor = Executor(
            log, keys, max_in_flight=max_commands, max_per_tenant=max_commands_per_tenant
        )
        event_log = EventLogService(log, AGGREGATES)
        for rules in RULES:
            server.add(rules.service, Commands(types, executor).method_of)
        server.add(
            command_pb2.DESCRIPTOR.services_by_name["BulkCommandService"],
            methods_of(BulkCommands(types, executor)),
        )
        server.add(
            event_pb2.DESCRIPTOR.services_by_name["EventLogService"],
            methods_of(event_log),
        )
        server.add(
            personal_pb2.DESCRIPTOR.services_by_name["KeyService"],
            methods_of(KeyService(keys, AGGREGATES)),
        )
        look = Gauges(log, executor, event_log).look
        async with exposing(options.metrics, OF_COMMANDS, look, insecure=options.insecure):
            address = await server.start()
            logger.info("serving", address=address, log=shown(url), position=log.head.position)
            announce(NAME, address)
            await _execute_until_signal(server, executor, erasures)
    logger.info("stopped")


async def _execute_until_signal(server: Server, executor: Executor, erasures: Erasures) -> None:
    try:
        async with asyncio.TaskGroup() as tasks:
            executing = tasks.create_task(executor.run(), name="executor")
            erasing = tasks.create_task(erasures.run(), name="erasures")
            await server.serve_until_signal()
            await executor.drain()
            executing.cancel()
            erasing.cancel()
    except* OutcomeUnknown as errors:
        die_of_unknown_outcome(errors)


if __name__ == "__main__":
    app()
