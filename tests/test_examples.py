"""What a new user sees first."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUN = """
import asyncio, pathlib, sys
from examples import run
free = "127.0.0.1:0"
sys.exit(asyncio.run(run.main(pathlib.Path(sys.argv[1]), free, free, (free, free))))
"""

STORIES = """
create test_user with 100
change the balance by +10
change the balance by +250
change the balance by -50
balance 310, version 4
UserCreated
UserBalanceChanged
UserBalanceChanged
UserBalanceChanged
balance 360, version 3
Insufficient balance
nothing was written: balance 310, version 4
duplicate
it had its effect once: balance 310, version 4
register Pacific Explorer
docked in Hong Kong, carrying 300 electronics
ShipRegistered
ShipDocked
CargoLoaded
ShipDeparted
ShipDocked
CargoUnloaded
Pacific Explorer: registered, carrying nothing
Pacific Explorer: docked in Singapore, carrying nothing
Pacific Explorer: docked in Singapore, carrying 500 electronics
Pacific Explorer: at sea, carrying 500 electronics
Pacific Explorer: docked in Hong Kong, carrying 500 electronics
Pacific Explorer: docked in Hong Kong, carrying 300 electronics
Ship is not docked at any port
7 events, live, the same as the log has
exit codes 0 and 0
"""


def test_make_demo_tells_both_stories_and_ends_well() -> None:
    told = subprocess.run(
        ["make", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert told.returncode == 0, told.stderr
    rest = told.stdout
    for sentence in STORIES.strip().splitlines():
        assert sentence in rest, f"{sentence!r} is missing, or in another order, in:\n{told.stdout}"
        rest = rest.partition(sentence)[2]


async def test_make_run_says_lines_to_paste_and_ends_well_on_ctrl_c(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, str(tmp_path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        banner = (await asyncio.wait_for(process.stdout.readuntil(b"/Subscribe\n"), 30)).decode()
        lines = banner.partition("PATH:\n")[2].split("\n  grpcurl")[1:]

        created, changed, _, events = [
            await pasted(f"grpcurl -max-time 2 {line}") for line in lines
        ]
        found = await pasted(f"grpcurl {lines[2]}")

        assert ('"version": "1"' in created, '"version": "2"' in changed) == (True, True)
        assert "UserBalanceChanged" in events
        assert '"balance": "350"' in found
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def pasted(line: str) -> str:
    """What a line prints that is pasted into a shell."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", line,
        env={**os.environ, "PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await asyncio.wait_for(shell.communicate(), 30)
    return printed.decode()
