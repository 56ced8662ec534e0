"""What a service tells its operator: structlog on standard error."""

import logging
import sys
from enum import StrEnum

import structlog


class LogLevel(StrEnum):
    """The least that is told."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure(level: LogLevel) -> None:
    """Coloured lines on a terminal, JSON elsewhere; other libraries' warnings come along."""
    is_terminal = sys.stderr.isatty()
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if is_terminal
        else structlog.processors.JSONRenderer()
    )
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            *([] if is_terminal else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.value),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, level_number(level)))
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_telling)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    # gRPC has a traceback for each header that is no UTF-8, and for each answer to a call that has
    # ended: any caller could fill the log with them.
    return not record.getMessage().startswith(("Invalid encoding on", "ExecuteBatchError raised"))


def level_number(level: LogLevel) -> int:
    """The level as the standard library numbers it."""
    return logging.getLevelNamesMapping()[level.value.upper()]
