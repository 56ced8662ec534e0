"""The machine and the software that figures are of."""

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path


def described(folder: Path) -> dict[str, str | int]:
    """What has to be known to compare figures.

    Args:
        folder: where the data is.
    """
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count() or 0,
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "filesystem": filesystem(folder),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "protobuf": version("protobuf"),
        "sqlite": sqlite3.sqlite_version,
        "eventsourcing": version("eventsourcing"),
        "umadb": version("umadb"),
    }


def filesystem(folder: Path) -> str:
    """The type of the file system that a folder is on."""
    mounts = {}
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mount_point, kind, *_ = line.split()
        mounts[Path(mount_point)] = kind
    folder = folder.resolve()
    return next(mounts[path] for path in (folder, *folder.parents) if path in mounts)


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return platform.machine()
