"""SQLite in the simulation: real databases, whose threads are timers, and whose commits can fail.

Their processes can die before each statement. No power is lost, so nothing is forced to the disk.
"""

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiosqlite.core import set_exception, set_result

from shared.sqlite import Connection
from tests.model.process import Trouble, process_of
from tests.model.simulation import running_simulation

SYNCHRONOUS = re.compile(r"\bsynchronous=\w+")


class Database(sqlite3.Connection):
    """What a connection's thread works with."""

    def __init__(self, database: Any, *args: Any, **options: Any) -> None:
        super().__init__(database, *args, **options)
        self._is_log = Path(database).name == "log.db"
        self._process = process_of(None)
        if self._process is not None:
            self._process.at_end.append(self.close)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self._meet(sql)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Any], /) -> sqlite3.Cursor:
        self._meet(sql)
        return super().executemany(sql, rows)

    def executescript(self, script: str, /) -> sqlite3.Cursor:
        self._meet(script)
        return super().executescript(SYNCHRONOUS.sub("synchronous=OFF", script))

    def _meet(self, sql: str) -> None:
        process = self._process
        if process is None:
            return
        process.pass_place()
        if sql != "COMMIT" or process.trouble is None or not process.is_alive:
            return
        trouble, process.trouble = process.trouble, None
        process.has_met_trouble = True
        if trouble is Trouble.FULL:
            raise _error(sqlite3.SQLITE_FULL)
        # A projection's process goes on, and to it a commit that failed is one that did not happen.
        is_written = trouble is Trouble.WRITTEN and self._is_log
        super().execute("COMMIT" if is_written else "ROLLBACK")
        raise _error(sqlite3.SQLITE_IOERR)


def _error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("The test wants it so")
    error.sqlite_errorcode = code
    return error


class SimulatedConnection(Connection):
    """A connection whose thread is played by the simulation.

    What is put into its queue is done one by one, each in its time. It takes as long again until
    the event loop hears of it, which others may be faster to see.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection], iter_chunk_size: int) -> None:
        super().__init__(connector, iter_chunk_size)
        self._done_at = self._told_at = 0.0
        no_thread: Any = SimpleNamespace(start=lambda: None, join=lambda: None)
        self._thread = no_thread
        queue: Any = SimpleNamespace(put_nowait=self._take_on)
        self._tx = queue
        if (process := process_of(None)) is not None:
            process.at_end.append(self._forget)

    def _take_on(self, job: tuple[asyncio.Future[Any], Callable[[], Any]]) -> None:
        loop = running_simulation()
        self._done_at = max(self._done_at, loop.time()) + loop.delay()
        loop.call_at(self._done_at, self._do, *job)

    def _do(self, future: asyncio.Future[Any], function: Callable[[], Any]) -> None:
        loop = running_simulation()
        said: list[Callable[[], object]] = []
        loop.said = said
        try:
            said.append(partial(set_result, future, function()))
        except BaseException as error:  # noqa: BLE001  # as aiosqlite's thread does
            said.append(partial(set_exception, future, error))
        finally:
            loop.said = None
        for tell in said:
            self._told_at = max(self._told_at, loop.time()) + loop.delay()
            loop.call_at(self._told_at, tell)

    def _forget(self) -> None:
        self._connection = None
