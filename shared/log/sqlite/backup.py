"""A copy of a log as it is at a moment, made while a service goes on writing to it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from shared.log.sqlite.verifying import opened
from shared.verification import Unreadable, Verification

PAGES_AT_ONCE = 1_000
"""Copied before progress is told."""


def back_up(path: Path, target: Path, verification: Verification) -> None:
    """Copies a log into a file that is there, durable and whole, when this returns.

    The copy is read in one transaction: it is of one moment, and no write meanwhile has it begin
    again. It is one file, without a WAL beside it.

    Args:
        path: of the log.
        target: of the copy; it must not be there yet.
        verification: shown how far it is.

    Raises:
        Unreadable: the log cannot be read, or the copy not be made.
    """
    if target.exists():
        raise Unreadable(f"{target} is there already, and is not overwritten")
    partial = target.with_name(f"{target.name}.partial")
    with opened(path) as source:
        try:
            # As private as the log; whoever makes another copy of this name meanwhile is refused.
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            os.close(os.open(partial, flags, path.stat().st_mode & 0o777))
        except FileExistsError as error:
            raise Unreadable(
                f"{partial} is there: another copy is being made, or was given up; then delete it"
            ) from error
        except OSError as error:
            raise Unreadable(f"{partial} cannot be made: {error.strerror}") from error
        try:
            _copy(source, partial, verification)
            _sync(partial)
            partial.rename(target)
            _sync(target.parent)
        except (OSError, sqlite3.Error) as error:
            raise Unreadable(f"{target} cannot be made: {error}") from error
        finally:
            partial.unlink(missing_ok=True)


def _copy(source: sqlite3.Connection, path: Path, verification: Verification) -> None:
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as copy,
        verification.step("backup", source.execute("PRAGMA page_count").fetchone()[0]) as advance,
    ):
        source.backup(
            copy,
            pages=PAGES_AT_ONCE,
            progress=lambda _, remaining, total: advance(total - remaining),
        )
        # One that is written to gets its WAL again.
        copy.execute("PRAGMA journal_mode=DELETE")


def _sync(path: Path) -> None:
    """Has the disk take a file, or what is in a folder."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
