"""Somebody who types `tidemark` commands."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.services.deployment import Deployment

TIDEMARK = str(Path(sys.executable).with_name("tidemark"))
SOON_S = 20.0


class Terminal:
    """Types commands for one tenant."""

    def __init__(self, both: Deployment, tenant_id: str) -> None:
        self.env = {
            **os.environ,
            "TIDEMARK_COMMANDS": both.command.address,
            "TIDEMARK_QUERIES": both.query.address,
            "TIDEMARK_TENANT": tenant_id,
            "COLUMNS": "200",
        }

    async def types(self, *arguments: str) -> tuple[int | None, str, str]:
        """Exit code, standard output and standard error of a command, which are piped."""
        process = await asyncio.create_subprocess_exec(
            TIDEMARK,
            *arguments,
            env=self.env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await asyncio.wait_for(process.communicate(), SOON_S)
        return process.returncode, stdout.decode(), stderr.decode()

    async def sees(self, *arguments: str) -> str:
        """What a command prints that goes well."""
        code, stdout, stderr = await self.types(*arguments)
        assert (code, stderr) == (0, "")
        return stdout

    async def reads(self, *arguments: str) -> list[Any]:
        """The objects that it prints."""
        printed = await self.sees(*arguments)
        return [json.loads(line) for line in printed.splitlines()]

    @asynccontextmanager
    async def watching(
        self, *arguments: str, terminal: bool = False, ends: bool = False
    ) -> AsyncIterator[asyncio.StreamReader]:
        """What a command prints, piped or on a terminal, until it ends, if it does, or Ctrl-C.

        It has to end well.
        """
        near, far = pty.openpty() if terminal else os.pipe()
        process = await asyncio.create_subprocess_exec(
            TIDEMARK, *arguments, env=self.env | {"TERM": "xterm"}, stdout=far
        )
        os.close(far)
        reader = asyncio.StreamReader()
        with os.fdopen(near, "rb", buffering=0) as file:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), file
            )
            try:
                yield reader
                if not ends:
                    process.send_signal(signal.SIGINT)
                assert await asyncio.wait_for(process.wait(), SOON_S) == 0
            finally:
                transport.close()
                if process.returncode is None:
                    process.kill()
                    await process.wait()
