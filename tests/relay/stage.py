"""The programs that a test of the relay is about, and their end."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from shared.aggregates.known import known_aggregates
from shared.event_log_service import EventLogService
from shared.log.memory import MemoryLog
from shared.rpc import methods_of
from shared.server import Server
from tests.relay.arrivals import Arrivals
from tests.relay.broker import Broker
from tests.relay.program import Program
from tests.services.deployment import EVENT_LOG


class Stage:
    """A broker that runs, and whatever is started around it. Made by `stage`."""

    def __init__(self, folder: Path, programs: AsyncExitStack) -> None:
        self.store = folder / "relay"
        self.broker = Broker(folder)
        self._programs = programs

    async def start_relay(self, upstream: str, *options: str) -> Program:
        """A relay from a service to the broker; all with the same checkpoint."""
        arguments = ("--upstream", upstream, "--broker", self.broker.url, *options)
        return await self._start("query_service", "relay", *self.on_store(*arguments))

    def on_store(self, *options: str) -> tuple[str, ...]:
        """Options of a command about the relay's store."""
        return ("--to", "celery", "--store", str(self.store), *options)

    async def start_worker(self, arrivals: Arrivals, *queues: str) -> Program:
        """A worker that handles one task after the other."""
        worker = await Program.start(
            *(sys.executable, "-m", "celery", "--app", "tests.relay.consumer", "worker"),
            *("--queues", ",".join(queues), "--concurrency", "1", "--loglevel", "INFO"),
            # It is alone, and has nobody to wait for.
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ready=" ready.",
            env={"BROKER": self.broker.url, "ARRIVALS": arrivals.address},
        )
        self._programs.push_async_callback(worker.kill)
        return worker

    async def _start(self, module: str, command: str, *options: str) -> Program:
        program = await Program.start(
            sys.executable, "-m", module, command, *options, ready=f"{command} ready on "
        )
        self._programs.push_async_callback(program.kill)
        return program


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """The broker, running."""
    async with AsyncExitStack() as programs:
        made = Stage(folder, programs)
        await made.broker.start()
        programs.push_async_callback(made.broker.close)
        yield made


@asynccontextmanager
async def serving(log: MemoryLog, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """A log of the test's own, as a service gives it out; its address."""
    async with Server(listen) as server:
        server.add(EVENT_LOG, methods_of(EventLogService(log, known_aggregates())))
        yield await server.start()
