"""The services' commands, as an operator gives them."""

import asyncio
import re
import sys
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 60.0
VERIFIED = re.compile(r"([\d,]+) events?, .* verified, 0 findings\n")

UNFORESEEN = {
    "call_failed_unexpectedly",
    "command_failed",
    "fold_failed",
    "rebuild_failed_unexpectedly",
    "snapshot_ignored",
}
"""What an operator is told only of mistakes in the program."""


@dataclass(frozen=True)
class Ended:
    """A command that is over."""

    code: int | None
    stdout: str
    stderr: str

    @property
    def closing(self) -> str:
        """The last line of its output."""
        return self.stdout.splitlines()[-1]


async def operate(module: str, *arguments: str, cwd: Path | None = None) -> Ended:
    """Runs `python -m MODULE ARGUMENTS` to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode, stdout.decode(), stderr.decode())


def events_verified(ended: Ended) -> int:
    """How many events a verification has found nothing wrong with."""
    assert (ended.code, ended.stderr) == (0, ""), ended
    verified = VERIFIED.fullmatch(ended.stdout)
    assert verified, ended.stdout
    return int(verified[1].replace(",", ""))
