"""The processes and the folder of one scenario: started, and all ended, here."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.errors import BenchmarkFailed
from benchmarks.measurement import Conditions
from examples.services import Service


class Stage:
    """Starts services; what was started ends with the stage. Made by `staged`.

    Args:
        folder: for data, on a real disk; removed with the stage.
        log: file for the standard error of the services; it is kept.
        conditions: of each measurement.
        stack: ends what was started.
    """

    def __init__(
        self, folder: Path, log: Path, conditions: Conditions, stack: AsyncExitStack
    ) -> None:
        self.folder = folder
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

    async def start_command_service(self, *options: str) -> Service:
        """A command service with a new log, in `log_folder`."""
        url = f"sqlite:{self.log_folder / 'log.db'}"
        return await self.start(
            "command_service", "--listen", "127.0.0.1:0", "--log", url, *options
        )

    @property
    def log_folder(self) -> Path:
        """Where the command service has its log, and nothing else."""
        return self.folder / "log"


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
            yield Stage(folder, log, conditions, stack)
    finally:
        shutil.rmtree(folder)


async def _stop(service: Service) -> None:
    code = await service.stop()
    if code != 0:
        raise BenchmarkFailed(f"{service.name} ended with code {code}")
