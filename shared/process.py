"""A service as a process: its options, its first line, its exit code."""

import asyncio
import gc
import os
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, NoReturn

import structlog
import typer

from shared import service_log
from shared.errors import TidemarkError
from shared.security.misconfigured import Misconfigured
from shared.service_log import LogLevel
from shared.telemetry.configuring import configure_tracing

EXIT_OUTCOME_UNKNOWN = 70

GC_THRESHOLDS = (50_000, 20, 100)
"""A service holds many objects and hardly ever a cycle: to look for those as often as Python does
took nearly half of the time under load."""

logger = structlog.get_logger(__name__)

LogLevelOption = Annotated[
    LogLevel,
    typer.Option("--log-level", envvar="TIDEMARK_LOG_LEVEL", help="The least that is logged."),
]


def run(name: str, service: Coroutine[Any, Any, None], log_level: LogLevel) -> None:
    """Runs a service to its end.

    Raises:
        typer.Exit: with code 1: it could not start; standard error has the sentence.
    """
    service_log.configure(log_level)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        end_tracing = configure_tracing(name)
        try:
            asyncio.run(service)
        finally:
            end_tracing()
    except (TidemarkError, Misconfigured, OSError) as error:
        service.close()
        sys.stderr.write(f"{name}: {error}\n")
        raise typer.Exit(1) from error


def die_of_unknown_outcome(error: BaseException) -> NoReturn:
    """Ends the process at once, with code 70: whether a commit took effect, a restart will tell.

    Not even closing the log is safe to try.
    """
    logger.critical("commit_outcome_unknown", exc_info=error)
    os._exit(EXIT_OUTCOME_UNKNOWN)


def announce(name: str, address: str) -> None:
    """Says on standard output that the service is ready, and where."""
    sys.stdout.write(f"{name} ready on {address}\n")
    sys.stdout.flush()
