"""The query service: wiring, and the command line."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import structlog
import typer

from query_service.gauges import Gauges
from query_service.keys import UpstreamKeys
from query_service.past import Past
from query_service.projection_service import Projections
from query_service.projections import PROJECTIONS
from query_service.projector import Projector
from query_service.readiness import Readiness
from query_service.relay.commands import parked_command, relay_command
from query_service.replay import Replay
from query_service.replica import Replica
from query_service.unsealing import Unsealing
from query_service.verifying import verify_store
from shared.event_log_service import EventLogService
from shared.log.log import OutcomeUnknown
from shared.log.sqlite import SqliteLog
from shared.options import ServerOptions, takes
from shared.process import LogLevelOption, announce, die_of_unknown_outcome, run
from shared.rpc import methods_of
from shared.security.upstream import Upstream
from shared.server import READY, Server
from shared.service_log import LogLevel
from shared.telemetry.exposition import exposing
from shared.telemetry.metrics import OF_QUERIES
from shared.verification import exit_code
from tidemark.v1 import event_pb2, personal_pb2, query_pb2

NAME = "query_service"
EVENT_LOG_SERVICE = event_pb2.DESCRIPTOR.services_by_name["EventLogService"]

StoreOption = Annotated[
    Path,
    typer.Option(
        envvar="TIDEMARK_STORE",
        help="Folder for the copy of the log and the projections.",
        file_okay=False,
    ),
]
DEFAULT_STORE = Path("data/query")

logger = structlog.get_logger(NAME)
app = typer.Typer(no_args_is_help=True, add_completion=False)
app.command("relay")(relay_command)
app.command("parked")(parked_command)


@app.callback()
def main() -> None:
    """Follows a log, keeps a copy of it and projections, and answers from them."""


@app.command()
@takes(upstream=Upstream, options=ServerOptions)
def serve(
    listen: Annotated[
        str, typer.Option(envvar="TIDEMARK_LISTEN", help="HOST:PORT; port 0 is a free one.")
    ] = "127.0.0.1:50052",
    store: StoreOption = DEFAULT_STORE,
    max_replay_events: Annotated[
        int,
        typer.Option(
            envvar="TIDEMARK_MAX_REPLAY_EVENTS",
            min=1,
            help="Events that one Replay sends; beyond, RESOURCE_EXHAUSTED.",
        ),
    ] = 100_000,
    log_level: LogLevelOption = LogLevel.INFO,
    *,
    upstream: Upstream,
    options: ServerOptions,
) -> None:
    """Serve queries, replays and events until SIGTERM or Ctrl-C."""
    run(NAME, _serve(listen, store, max_replay_events, upstream, options), log_level)


@app.command()
def verify(store: StoreOption = DEFAULT_STORE) -> None:
    """Verify the copy of the log, and each projection against it, while a service runs or not.

    Exit code 0: nothing was found; 1: something was, and is told; 2: it cannot be read.
    """
    raise typer.Exit(exit_code(NAME, partial(verify_store, store)))


async def _serve(
    listen: str,
    folder: Path,
    max_replay_events: int,
    upstream: Upstream,
    options: ServerOptions,
) -> None:
    upstream.check(insecure=options.insecure)
    async with (
        Server(listen, options) as server,
        AsyncExitStack() as open_files,
    ):
        log = await SqliteLog.open(folder / "log.db", synchronous="NORMAL", with_receipts=False)
        open_files.push_async_callback(log.close)
        on_fault = partial(server.set_health, [READY, EVENT_LOG_SERVICE.full_name], False)
        aggregates = [projection.aggregate for projection in PROJECTIONS]
        keys = UpstreamKeys(upstream, log, aggregates)
        open_files.push_async_callback(keys.close)
        # Where one connection has died, the other has most likely, too.
        replica = Replica(log, upstream, on_fault, keys.disconnect)
        unsealing = Unsealing(keys, aggregates)
        projectors = []
        for projection in PROJECTIONS:
            projector = await Projector.open(projection, log, folder, unsealing)
            open_files.push_async_callback(projector.close)
            projectors.append(projector)
        past = Past(log, projectors)
        for each in projectors:
            queries = each.projection.queries(each, past)
            server.add(each.projection.service, methods_of(queries))
        services = query_pb2.DESCRIPTOR.services_by_name
        replay = Replay(log, past, unsealing, aggregates, max_replay_events)
        server.add(services["ReplayService"], methods_of(replay))
        projections = Projections(log, replica, projectors)
        server.add(services["ProjectionService"], methods_of(projections))
        event_log = EventLogService(log, aggregates, lambda: replica.origin)
        server.add(EVENT_LOG_SERVICE, methods_of(event_log))
        server.add(personal_pb2.DESCRIPTOR.services_by_name["KeyService"], methods_of(keys))
        look = Gauges(log, replica, projectors, projections, event_log).look
        await open_files.enter_async_context(
            exposing(options.metrics, OF_QUERIES, look, insecure=options.insecure)
        )
        readiness = Readiness(server, replica, projectors)
        address = await server.start(unready=readiness.names)
        for projector in projectors:
            await projector.begin()
        logger.info(
            "serving", address=address, upstream=upstream.upstream, position=log.head.position
        )
        announce(NAME, address)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(replica.run(), name="replica"),
                    tasks.create_task(readiness.run(), name="readiness"),
                    tasks.create_task(keys.run(), name="erasures"),
                    *(
                        tasks.create_task(each.run(), name=each.projection.name)
                        for each in projectors
                    ),
                ]
                await server.serve_until_signal()
                for task in running:
                    task.cancel()
        except* OutcomeUnknown as errors:
            die_of_unknown_outcome(errors)
    logger.info("stopped")


if __name__ == "__main__":
    app()
