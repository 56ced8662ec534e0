"""A disk that fails, and one that forgets, under SQLite: without root, mounts or a compiler.

SQLite reaches its files through a table of functions, the VFS. `install` puts its own in the places
of the few that write, in the process that it is called in; they call the ones that were there.

- It fails as the file `TIDEMARK_TORTURE_FAIL` says, for as long as that is there: "fsync", "write",
  or "full".
- It remembers what was made durable: beside each database file it keeps a copy, `.durable`, which
  has just what was there when the file was last synced. `lose_power` puts those in the files'
  places, which is what a power cut leaves at the least. What was written since may have come to the
  disk or not, sector by sector; a seed decides.

A sync makes durable what earlier processes wrote as well, as a kernel's does. Nothing here may open
a database file itself: to close it again would release the locks that SQLite has on it.

The idea of keeping what was synced apart from what was written is that of LazyFS (Azevedo et al.,
2024), which does it for a whole file system.
"""

import _sqlite3
import ctypes
import os
import random
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAIL_VARIABLE = "TIDEMARK_TORTURE_FAIL"
DURABLE = ".durable"
SECTOR_BYTES = 512

EXIT_BROKEN = 3
"""This module is wrong, not the service."""

OK = 0
FAILURES = {
    "fsync": ("sync", sqlite3.SQLITE_IOERR | (4 << 8)),
    "write": ("write", sqlite3.SQLITE_IOERR | (3 << 8)),
    "full": ("write", sqlite3.SQLITE_FULL),
}

POINTER = ctypes.sizeof(ctypes.c_void_p)
# Offsets in sqlite3_vfs and sqlite3_io_methods, which never change: see sqlite3.h.
VFS_OPEN, VFS_DELETE = 5 * POINTER, 6 * POINTER
CLOSE, READ, WRITE, TRUNCATE, SYNC, SIZE = (number * POINTER for number in range(1, 7))
METHODS_BYTES = 20 * POINTER

Address = ctypes.c_void_p
# Names as addresses: SQLite keeps them, which a copy of Python's would not outlive.
Open = ctypes.CFUNCTYPE(ctypes.c_int, Address, Address, Address, ctypes.c_int, Address)
Delete = ctypes.CFUNCTYPE(ctypes.c_int, Address, Address, ctypes.c_int)
Close = ctypes.CFUNCTYPE(ctypes.c_int, Address)
Transfer = ctypes.CFUNCTYPE(ctypes.c_int, Address, Address, ctypes.c_int, ctypes.c_longlong)
Truncate = ctypes.CFUNCTYPE(ctypes.c_int, Address, ctypes.c_longlong)
Sync = ctypes.CFUNCTYPE(ctypes.c_int, Address, ctypes.c_int)
Size = ctypes.CFUNCTYPE(ctypes.c_int, Address, Address)


def install() -> None:
    """Has every database that this process opens from now on be on such a disk."""
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = Address
    _Disk(library.sqlite3_vfs_find(None))


def lose_power(folder: Path, keep: random.Random | None = None) -> None:
    """Leaves of the databases in a folder what a power cut would, once the service is dead.

    Args:
        folder: of databases that were on such a disk.
        keep: decides which sectors that were written and not synced have come to the disk all the
            same; None: not one.
    """
    for shm in folder.glob("*-shm"):
        shm.unlink()
    for file in [each for each in folder.iterdir() if _is_database(each)]:
        durable = _durable_of(file)
        if not durable.exists():
            file.unlink()
            continue
        content = durable.read_bytes()
        if keep is not None:
            content = _torn(content, file.read_bytes(), keep)
        file.write_bytes(content)
        durable.write_bytes(content)


def met_of(switch: Path) -> Path:
    """The file that is made beside the one that has the disk fail, when it has failed."""
    return switch.with_suffix(".met")


def _torn(durable: bytes, written: bytes, keep: random.Random) -> bytes:
    torn = bytearray(durable)
    for start in range(0, len(written), SECTOR_BYTES):
        sector = written[start : start + SECTOR_BYTES]
        if sector != durable[start : start + SECTOR_BYTES] and keep.random() < 0.5:
            torn.extend(bytes(max(0, start - len(torn))))
            torn[start : start + len(sector)] = sector
    return bytes(torn)


def _is_database(file: Path) -> bool:
    return file.name.endswith((".db", "-wal", "-journal"))


def _durable_of(file: Path) -> Path:
    return file.with_name(file.name + DURABLE)


def _or_end(function: Callable[..., int]) -> Callable[..., int]:
    """SQLite takes whatever ctypes returns after an exception for an answer."""

    def call(*arguments: int) -> int:
        try:
            return function(*arguments)
        except BaseException:  # noqa: BLE001  # whatever it is, nobody else can be told
            traceback.print_exc()
            os._exit(EXIT_BROKEN)

    return call


class _Disk:
    """The functions in their places. It lives as long as the process."""

    living: "_Disk"

    def __init__(self, vfs: int) -> None:
        _Disk.living = self
        self._fail = Path(os.environ[FAIL_VARIABLE]) if FAIL_VARIABLE in os.environ else None
        self._files: dict[int, _File] = {}
        self._methods: dict[int, _Methods] = {}
        self._open = Open(_pointer(vfs + VFS_OPEN).value or 0)
        self._delete = Delete(_pointer(vfs + VFS_DELETE).value or 0)
        self._kept: list[Any] = []
        self.put(vfs + VFS_OPEN, Open(_or_end(self._when_opened)))
        self.put(vfs + VFS_DELETE, Delete(_or_end(self._when_deleted)))

    def put(self, place: int, function: Any) -> None:
        """Puts a function into a table."""
        self._kept.append(function)
        _pointer(place).value = ctypes.cast(function, Address).value

    def failure(self, operation: str) -> int:
        """The code with which an operation has to fail now; 0: it has not."""
        if self._fail is None:
            return OK
        try:
            failing, code = FAILURES[self._fail.read_text()]
        except FileNotFoundError:
            return OK
        if failing != operation:
            return OK
        met_of(self._fail).touch()
        return code

    def file(self, address: int) -> "_File":
        """An open file."""
        return self._files[address]

    def close(self, address: int) -> None:
        """Forgets a file."""
        self._files.pop(address, None)

    def _when_opened(self, vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        code = int(self._open(vfs, name, file, flags, out))
        table = _pointer(file)
        if code == OK and name is not None and table.value:
            original = table.value
            if original not in self._methods:
                self._methods[original] = _Methods(self, original)
            table.value = self._methods[original].address
            self._files[file] = _File(_path_at(name))
        return code

    def _when_deleted(self, vfs: int, name: int, sync: int) -> int:
        code = int(self._delete(vfs, name, sync))
        _durable_of(_path_at(name)).unlink(missing_ok=True)
        return code


class _Methods:
    """A table of a file's functions in which those that write are replaced."""

    def __init__(self, disk: _Disk, original: int) -> None:
        self._disk = disk
        self._table = ctypes.create_string_buffer(ctypes.string_at(original, METHODS_BYTES))
        self.address = ctypes.addressof(self._table)
        self._close = Close(_pointer(original + CLOSE).value or 0)
        self._read = Transfer(_pointer(original + READ).value or 0)
        self._size = Size(_pointer(original + SIZE).value or 0)
        self._write = Transfer(_pointer(original + WRITE).value or 0)
        self._truncate = Truncate(_pointer(original + TRUNCATE).value or 0)
        self._sync = Sync(_pointer(original + SYNC).value or 0)
        disk.put(self.address + CLOSE, Close(_or_end(self._when_closed)))
        disk.put(self.address + WRITE, Transfer(_or_end(self._when_written)))
        disk.put(self.address + TRUNCATE, Truncate(_or_end(self._when_truncated)))
        disk.put(self.address + SYNC, Sync(_or_end(self._when_synced)))

    def _when_closed(self, file: int) -> int:
        self._disk.close(file)
        return int(self._close(file))

    def _when_written(self, file: int, content: int, size: int, offset: int) -> int:
        if failure := self._disk.failure("write"):
            return failure
        code = int(self._write(file, content, size, offset))
        if code == OK:
            self._disk.file(file).write(ctypes.string_at(content, size), offset)
        return code

    def _when_truncated(self, file: int, size: int) -> int:
        code = int(self._truncate(file, size))
        if code == OK:
            self._disk.file(file).truncate(size)
        return code

    def _when_synced(self, file: int, flags: int) -> int:
        if failure := self._disk.failure("sync"):
            return failure
        code = int(self._sync(file, flags))
        if code == OK:
            known = self._disk.file(file)
            known.sync(None if known.has_synced else self._content(file))
        return code

    def _content(self, file: int) -> bytes:
        size = ctypes.c_longlong()
        self._size(file, ctypes.addressof(size))
        content = ctypes.create_string_buffer(size.value)
        self._read(file, ctypes.addressof(content), size.value, 0)
        return content.raw


class _File:
    """A database file, and what of it is durable: what it was when it was last synced."""

    def __init__(self, path: Path) -> None:
        self._durable = _durable_of(path)
        self._since: list[tuple[bytes | None, int]] = []
        self.has_synced = False

    def write(self, content: bytes, offset: int) -> None:
        """Notes what was written."""
        self._since.append((content, offset))

    def truncate(self, size: int) -> None:
        """Notes what was cut off."""
        self._since.append((None, size))

    def sync(self, content: bytes | None) -> None:
        """Makes all of it durable.

        Args:
            content: the whole of the file, if that is not known from before.
        """
        if content is not None:
            # All of it at once: a process that is killed in between has lost nothing by that.
            whole = self._durable.with_name(f"{self._durable.name}.new")
            whole.write_bytes(content)
            whole.replace(self._durable)
            self._since.clear()
            self.has_synced = True
        number = os.open(self._durable, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        try:
            for written, offset in self._since:
                if written is None:
                    os.ftruncate(number, offset)
                else:
                    os.pwrite(number, written, offset)
        finally:
            os.close(number)
        self._since.clear()


def _path_at(address: int) -> Path:
    return Path(os.fsdecode(ctypes.string_at(address)))


def _pointer(address: int) -> ctypes.c_void_p:
    return ctypes.c_void_p.from_address(address)
