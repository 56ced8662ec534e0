"""What a process has used, as the kernel counts it."""

import os
from pathlib import Path

from benchmarks.errors import BenchmarkFailed

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU seconds of all its threads, in user and kernel mode; counted in ticks of 10 ms."""
    # The name before the last parenthesis may hold spaces; utime and stime are fields 14 and 15.
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """The memory that is resident now."""
    return _memory_bytes(pid, "VmRSS:")


def peak_rss_bytes(pid: int) -> int:
    """The most memory that was ever resident."""
    return _memory_bytes(pid, "VmHWM:")


def disk_bytes(folder: Path) -> int:
    """The sizes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _memory_bytes(pid: int, field: str) -> int:
    for line in _read(pid, "status").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise BenchmarkFailed(f"Process {pid} has ended")


def _read(pid: int, file: str) -> str:
    try:
        return Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError) as error:
        raise BenchmarkFailed(f"Process {pid} has ended") from error
