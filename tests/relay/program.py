"""Any program as a process, and what it says."""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

WAIT_S = 30.0
"""The longest that a test waits for anything."""


class Program:
    """A process, in a group of its own with all that it starts. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: list[str] = []
        self._is_over = False
        self._changed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        *command: str,
        ready: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> "Program":
        """Starts it, and waits for a line that contains `ready`."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
        program = cls(process)
        try:
            await program.said(ready)
        except BaseException:
            await program.kill()
            raise
        return program

    @property
    def output(self) -> str:
        """All that it has said, on standard output and standard error."""
        return "".join(self._lines)

    async def said(self, text: str, times: int = 1) -> None:
        """Returns once so many of its lines contain the text."""

        def is_said() -> bool:
            return sum(text in line for line in self._lines) >= times

        with suppress(TimeoutError):
            async with self._changed, asyncio.timeout(WAIT_S):
                await self._changed.wait_for(lambda: is_said() or self._is_over)
        assert is_said(), f"It has not said {text!r}:\n{self.output}"

    async def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        async with asyncio.timeout(WAIT_S):
            await self._reading
            return await self._process.wait()

    async def stop(self) -> int:
        """Asks it to end, and returns its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """Ends it, and all that it has started, as a power cut would, for the processes."""
        if not self._is_over:
            os.killpg(self._process.pid, signal.SIGKILL)
        await self.ended()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._changed:
                self._lines.append(line.decode())
                self._changed.notify_all()
        async with self._changed:
            self._is_over = True
            self._changed.notify_all()
