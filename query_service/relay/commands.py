"""The relay as commands of the query service: wiring."""

import asyncio
import json
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import structlog
import typer

from query_service.relay.progress import Progress, read_parked
from query_service.relay.relay import Relay
from query_service.relay.target import Target
from query_service.relay.targets import TargetKind, open_target
from shared.json_events import to_dict
from shared.json_messages import JsonObject
from shared.log.log import timestamp_of
from shared.options import takes
from shared.process import LogLevelOption, announce, run
from shared.security.upstream import Upstream
from shared.service_log import LogLevel
from tidemark.v1.event_pb2 import RecordedEvent

NAME = "relay"

logger = structlog.get_logger(NAME)

ToOption = Annotated[TargetKind, typer.Option("--to", help="What the events are passed on to.")]
StoreOption = Annotated[
    Path,
    typer.Option(
        "--store",
        envvar="TIDEMARK_RELAY_STORE",
        help="Folder for the checkpoint, and for what could not be passed on.",
        file_okay=False,
    ),
]
DEFAULT_STORE = Path("data/relay")


@dataclass(frozen=True)
class Followed(Upstream):
    """The query service whose events are passed on."""

    upstream: Annotated[
        str,
        typer.Option(
            envvar="TIDEMARK_UPSTREAM", help="HOST:PORT of the query service that is followed."
        ),
    ] = "127.0.0.1:50052"


@takes(upstream=Followed)
def relay_command(
    to: ToOption,
    broker: Annotated[
        str,
        typer.Option(envvar="TIDEMARK_BROKER", help="redis://HOST:PORT/DATABASE, or rediss://."),
    ] = "redis://127.0.0.1:6379/0",
    queues: Annotated[
        int,
        typer.Option(
            envvar="TIDEMARK_QUEUES",
            min=1,
            help="Queues, tidemark-0 and on. An aggregate's events are all in one.",
        ),
    ] = 1,
    store: StoreOption = DEFAULT_STORE,
    log_level: LogLevelOption = LogLevel.INFO,
    *,
    upstream: Followed,
) -> None:
    """Pass every event on to a task queue, at least once, until SIGTERM or Ctrl-C.

    In order per aggregate. An event of which no task can be made, or that the broker refuses, is
    parked: see the command `parked`.
    """
    try:
        target = open_target(to, broker, queues)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--broker") from error
    except ImportError as error:
        raise typer.BadParameter(
            f"{error}: it needs the extra, pip install 'tidemark[relay]'", param_hint="--to"
        ) from error
    run(NAME, _relay(upstream, target, _file_of(store, to)), log_level)


def parked_command(to: ToOption, store: StoreOption = DEFAULT_STORE) -> None:
    """List the events that a relay could not pass on, as JSON, one a line, with the reason."""
    path = _file_of(store, to)
    if not path.exists():
        raise typer.BadParameter(f"There is no {path}", param_hint="--store")
    run(NAME, _list_parked(path), LogLevel.WARNING)


def _file_of(store: Path, to: TargetKind) -> Path:
    return store / f"{to.value}.db"


async def _relay(upstream: Upstream, target: Target, path: Path) -> None:
    # It asks for events alone, in which what is personal is encrypted.
    upstream.check(insecure=True)
    progress = await Progress.open(path)
    try:
        relaying = asyncio.create_task(Relay(upstream, target, progress).run(), name=NAME)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, relaying.cancel)
        logger.info(
            "relaying",
            upstream=upstream.upstream,
            target=target.address,
            position=progress.head.position,
            parked=progress.parked_count,
        )
        announce(NAME, target.address)
        with suppress(asyncio.CancelledError):
            await relaying
    finally:
        await progress.close()
    logger.info("stopped", position=progress.head.position, parked=progress.parked_count)


async def _list_parked(path: Path) -> None:
    for parked in await read_parked(path):
        line = {
            "position": parked.position,
            "parked_at": timestamp_of(parked.parked_at).ToJsonString(),
            "reason": parked.reason,
            "event": _as_json(parked.record),
        }
        sys.stdout.write(f"{json.dumps(line)}\n")


def _as_json(record: bytes) -> JsonObject | None:
    try:
        return to_dict(RecordedEvent.FromString(record))
    except Exception:  # noqa: BLE001  # that may be why it was parked; the reason says so
        return None
