"""The processes and the folder of one scenario: started, and all ended, here."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from benchmarks.errors import BenchmarkFailed
from benchmarks.measurement import Conditions
from examples.postgres import PostgresServer, postgres_server
from examples.services import Service


class Stage:
    """Starts services; what was started ends with the stage. Made by `staged`.

    Args:
        folder: for data, on a real disk; removed with the stage.
        shared: for data that later scenarios of the same run use again.
        log: file for the standard error of the services; it is kept.
        conditions: of each measurement.
        stack: ends what was started.
    """

    def __init__(
        self,
        folder: Path,
        shared: Path,
        log: Path,
        conditions: Conditions,
        stack: AsyncExitStack,
    ) -> None:
        self.folder = folder
        self.shared = shared
        self.conditions = conditions
        self._log = log
        self._stack = stack

    async def start(self, module: str, *arguments: str) -> Service:
        """Starts `python -m MODULE serve ARGUMENTS`.

        Raises:
            ServiceFailed: it did not start.
        """
        starting = asyncio.ensure_future(Service.start(module, *arguments, log=self._log))
        try:
            service = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await _stop(await starting)
            raise
        self._stack.push_async_callback(_stop, service)
        return service

    async def start_empty_server(self) -> Service:
        """The reference for calls: see `benchmarks.empty_server`."""
        return await self.start("benchmarks.empty_server")

    async def start_postgres(self, settings: Mapping[str, str]) -> PostgresServer:
        """A PostgreSQL server with its data in the stage's folder, if everybody can reach that."""
        server = postgres_server(settings, within=self.folder)
        return await asyncio.to_thread(self._stack.enter_context, server)

    async def start_command_service(self, *options: str) -> Service:
        """A command service with its log, new or prepared, in `log_folder`.

        Options come last: with `--log` it has another one.
        """
        url = f"sqlite:{self.log_folder / 'log.db'}"
        return await self.start(
            "command_service", "--listen", "127.0.0.1:0", "--log", url, *options
        )

    async def start_query_service(self, upstream: Service) -> Service:
        """A query service with its store, new or prepared, in `store_folder`."""
        return await self.start(
            "query_service",
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            upstream.address,
            "--store",
            str(self.store_folder),
        )

    @property
    def log_folder(self) -> Path:
        """Where the command service has its log, and nothing else."""
        return self.folder / "log"

    @property
    def store_folder(self) -> Path:
        """Where the query service has its copy and its projections, and nothing else."""
        return self.folder / "store"


@contextmanager
def shared_folder(out: Path) -> Iterator[None]:
    """A new folder for what the scenarios of one run share; removed on leaving."""
    folder = _shared(out)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def staged(name: str, out: Path, conditions: Conditions) -> AsyncIterator[Stage]:
    """A stage with nothing on it.

    Raises:
        BenchmarkFailed: a service did not end well.
    """
    folder = out / "data" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = out / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    try:
        async with AsyncExitStack() as stack:
            yield Stage(folder, _shared(out), log, conditions, stack)
    finally:
        shutil.rmtree(folder)


def _shared(out: Path) -> Path:
    return out / "data" / "shared"


async def _stop(service: Service) -> None:
    code = await service.stop()
    if code != 0:
        raise BenchmarkFailed(f"{service.name} ended with code {code}")
