"""A clock that is wrong by as much as a file says, and jumps when that is changed.

It is the wall clock that Python code asks, `time.time` and `time.time_ns`; time that passes is
measured by another, which no administrator can set. libfaketime would shift both for C code as
well, but makes gRPC's and SQLite's timed waits take seconds.
"""

import os
import time
from pathlib import Path

CLOCK_VARIABLE = "TIDEMARK_TORTURE_CLOCK"
NANOSECONDS = 1_000_000_000


def install() -> None:
    """Shifts the clock of this process, if its environment names the file."""
    if CLOCK_VARIABLE not in os.environ:
        return
    file = Path(os.environ[CLOCK_VARIABLE])
    now, now_ns = time.time, time.time_ns

    def offset_s() -> int:
        return int(file.read_text() or "0") if file.exists() else 0

    time.time = lambda: now() + offset_s()
    time.time_ns = lambda: now_ns() + offset_s() * NANOSECONDS
