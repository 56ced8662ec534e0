"""Runs the two services as processes of their own, as an operator would."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

START_S = 30.0
STOP_S = 20.0


class ServiceFailed(Exception):
    """The process ended before it was ready."""


class Service:
    """One service process. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, name: str, address: str) -> None:
        self.process = process
        self.name = name
        self.address = address
        """HOST:PORT."""

    @classmethod
    async def start(
        cls,
        module: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        cwd: Path | None = None,
    ) -> "Service":
        """Starts `python -m MODULE serve ARGUMENTS` and waits until it says that it is ready.

        Args:
            module: the service.
            arguments: its options.
            env: variables beside those of this process.
            log: file for its standard error; None: this process's own.
            cwd: folder to run it in; None: this process's own.

        Raises:
            ServiceFailed: it ended instead, or took longer than 30 s.
        """
        with contextlib.ExitStack() as files:
            stderr = files.enter_context(log.open("ab")) if log else None
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                "serve",
                *arguments,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                # Ctrl-C is for whoever started it to pass on, in order.
                start_new_session=True,
            )
        assert process.stdout is not None  # noqa: S101  # it is a pipe
        try:
            async with asyncio.timeout(START_S):
                line = (await process.stdout.readline()).decode()
        except TimeoutError:
            process.kill()
            line = ""
        if " ready on " not in line:
            await process.wait()
            raise ServiceFailed(f"{module} ended with code {process.returncode}")
        return cls(process, module, line.rpartition(" ")[2].strip())

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit code; once ended, just that.

        What has not ended after 20 s is killed.
        """
        if self.process.returncode is None:
            self.process.send_signal(number)
        try:
            async with asyncio.timeout(STOP_S):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()

    async def kill(self) -> None:
        """Ends it as a power cut would, for the process."""
        await self.stop(signal.SIGKILL)


async def start_command_service(
    folder: Path, listen: str = "127.0.0.1:0", *options: str, log: Path | None = None
) -> Service:
    """A command service with its log in the folder."""
    url = f"sqlite:{folder / 'log.db'}"
    return await Service.start(
        "command_service", "--listen", listen, "--log", url, *options, log=log
    )


async def start_query_service(
    folder: Path,
    upstream: str,
    listen: str = "127.0.0.1:0",
    *options: str,
    module: str = "query_service",
    log: Path | None = None,
) -> Service:
    """A query service with its store in the folder."""
    store = str(folder / "query")
    arguments = ("--listen", listen, "--upstream", upstream, "--store", store, *options)
    return await Service.start(module, *arguments, log=log)
