"""Faults of the whole machine, for which it takes root, mounts or a debugger."""

import asyncio
import fcntl
import os
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

SMALL_MIB = 24
IMAGE_MIB = 96
TRY_S = 10.0
EXT4_IOC_SHUTDOWN = 0x8004587D
WITHOUT_FLUSH = 2
"""EXT4_GOING_FLAGS_NOLOGFLUSH: what is not on the disk by then never comes there."""


class MachineFailed(Exception):
    """A command of the machine's did not work."""


def reason_it_cannot_mount() -> str:
    """Why nothing can be mounted; empty: it can."""
    if os.geteuid() != 0:
        return "it takes root to mount"
    return reason_it_fails("unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt")


def reason_it_cannot_lose_power() -> str:
    """Why there can be no file system of its own; empty: there can."""
    if reason := reason_it_cannot_mount():
        return reason
    with tempfile.NamedTemporaryFile() as image:
        image.truncate(IMAGE_MIB << 20)
        return reason_it_fails("mkfs.ext4", "-q", "-F", image.name) or reason_it_fails(
            "unshare", "-m", "mount", "-o", "loop", image.name, "/mnt"
        )


def reason_it_cannot_trace() -> str:
    """Why system calls cannot be made to fail; empty: they can."""
    return reason_it_fails("strace", "-o", "/dev/null", "true")


def reason_it_fails(*command: str) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TRY_S)
    except FileNotFoundError:
        return f"there is no {command[0]}"
    except subprocess.TimeoutExpired:
        return f"{command[0]} does not end"
    if ended.returncode == 0:
        return ""
    return f"{command[0]} is not permitted: {ended.stderr.strip().rpartition(chr(10))[2]}"


@asynccontextmanager
async def small_tmpfs(folder: Path) -> AsyncIterator[Path]:
    """A file system in memory with room for little."""
    place = folder / "tmpfs"
    place.mkdir()
    await _run("mount", "-t", "tmpfs", "-o", f"size={SMALL_MIB}m", "tmpfs", str(place))
    try:
        yield place
    finally:
        await _run("umount", "--lazy", str(place))


@asynccontextmanager
async def own_ext4(folder: Path) -> AsyncIterator[Path]:
    """An ext4 in a file, which can lose its power."""
    image, place = folder / "ext4.img", folder / "ext4"
    with image.open("wb") as file:
        file.truncate(IMAGE_MIB << 20)
    place.mkdir()
    await _run("mkfs.ext4", "-q", "-F", str(image))
    await _run("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        await _run("umount", "--lazy", str(place))


def cut_power(place: Path) -> None:
    """The file system in `own_ext4` takes nothing any more, as if its disk had lost its power."""
    number = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(number, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
    finally:
        os.close(number)


async def restore_power(place: Path) -> None:
    """It is mounted again, with what has come to the disk."""
    await _run("umount", str(place))
    await _run("mount", "-o", "loop", str(place.with_name("ext4.img")), str(place))


@asynccontextmanager
async def failing_calls(process: int, calls: str, error: str) -> AsyncIterator[None]:
    """System calls of a process fail, for the length of a block.

    Args:
        process: its id.
        calls: their names, separated by commas.
        error: for example EIO.
    """
    tracer = await asyncio.create_subprocess_exec(
        "strace",
        "-f",
        *("-p", str(process)),
        *("-e", f"trace={calls}"),
        *("-e", f"inject={calls}:error={error}"),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert tracer.stderr is not None  # it is a pipe
    drain = None
    try:
        # It says so when it has attached.
        async with asyncio.timeout(TRY_S):
            line = await tracer.stderr.readline()
        if b"attached" not in line:
            raise MachineFailed(f"strace: {line.decode().strip()}")
        drain = asyncio.create_task(tracer.stderr.read())
        yield
    finally:
        if tracer.returncode is None:
            tracer.terminate()
        await tracer.wait()
        if drain is not None:
            await drain


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    if process.returncode != 0:
        raise MachineFailed(f"{' '.join(command)}: {errors.decode().strip()}")
