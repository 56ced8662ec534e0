"""Logs that a test can hold up and make fail, and that tell what they were asked."""

import asyncio
import sqlite3
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from shared.log.log import (
    AggregateKey,
    CommandKey,
    Commit,
    History,
    Outcome,
    Receipt,
)
from shared.log.memory import MemoryLog
from shared.log.sqlite import SqliteLog
from tests.executor.asking import within
from tests.log.builders import event
from tidemark.v1.ship_pb2 import ShipDocked


class Held:
    """A call of the log that waits to be let go."""

    def __init__(self) -> None:
        self.fate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def let_go(self) -> None:
        self.fate.set_result(None)

    def fail(self, error: Exception) -> None:
        """Before it has any effect."""
        self.fate.set_exception(error)


class Gate:
    """What calls of one kind pass, unless it is shut."""

    def __init__(self) -> None:
        self._to_hold = 0
        self._held: list[Held] = []
        self._arrivals: asyncio.Queue[Held] = asyncio.Queue()
        self._failures: deque[Exception] = deque()

    def hold(self, calls: int = sys.maxsize) -> None:
        """Holds so many of the next calls."""
        self._to_hold = calls

    def release(self) -> None:
        """Lets everyone go, and holds nobody any more."""
        self._to_hold = 0
        for held in self._held:
            if not held.fate.done():
                held.let_go()

    async def arrival(self) -> Held:
        """The next call that is held."""
        return await within(self._arrivals.get())

    def fail_next(self, error: Exception) -> None:
        """The next call that passes fails before it has any effect."""
        self._failures.append(error)

    async def enter(self) -> None:
        """Passes the gate, when and as the test wants it."""
        if self._to_hold:
            self._to_hold -= 1
            held = Held()
            self._held.append(held)
            self._arrivals.put_nowait(held)
            await held.fate
        if self._failures:
            raise self._failures.popleft()


class GatedLog(MemoryLog):
    """Every append, load and look-up of receipts passes a gate, and is written down."""

    def __init__(self, *, is_exclusive: bool) -> None:
        super().__init__()
        self.is_exclusive = is_exclusive
        self.appending = Gate()
        self.loading = Gate()
        self.looking_up = Gate()
        self.after_writing: Exception | None = None
        """What the next append raises when it has written."""
        self.appends: list[list[Commit]] = []
        self.loads: list[set[AggregateKey]] = []
        self.lookups: list[set[CommandKey]] = []

    async def append(self, commits: Sequence[Commit]) -> list[Outcome]:
        self.appends.append(list(commits))
        await self.appending.enter()
        outcomes = await super().append(commits)
        if self.after_writing is not None:
            raise self.after_writing
        return outcomes

    async def load(self, schemas: Mapping[AggregateKey, bytes]) -> dict[AggregateKey, History]:
        self.loads.append(set(schemas))
        await self.loading.enter()
        return await super().load(schemas)

    async def receipts(self, commands: Iterable[CommandKey]) -> dict[CommandKey, Receipt]:
        wanted = set(commands)
        self.lookups.append(wanted)
        await self.looking_up.enter()
        return await super().receipts(wanted)

    def damage_record(self, position: int) -> None:
        """From now on the stored record is no message at all."""
        self._records[position - 1] = b"\xff" * len(self._records[position - 1])

    def damage_snapshot(self, key: AggregateKey) -> None:
        """From now on the stored state is no message at all."""
        self._snapshots[key] = replace(self._snapshots[key], state=b"\xff")


class ContestedLog(MemoryLog):
    """Before so many appends, a rival docks every ship that they are about."""

    def __init__(self) -> None:
        super().__init__()
        self._rivals = 0
        self.appends = 0

    def contest(self, appends: int) -> None:
        self._rivals = appends

    async def append(self, commits: Sequence[Commit]) -> list[Outcome]:
        self.appends += 1
        if self._rivals:
            self._rivals -= 1
            for key in {commit.key for commit in commits}:
                version = len(self._versions.get(key, ()))
                docked = event(key, version + 1, ShipDocked(port="Rival"))
                await super().append([Commit(key, version, [docked])])
        return await super().append(commits)


async def limit_size(log: SqliteLog, pages: int) -> None:
    """Makes SQLite answer as on a full disk as soon as the database has grown to so many pages."""

    def set_limit(db: sqlite3.Connection) -> None:
        db.execute(f"PRAGMA max_page_count = {pages}")

    await log._writer.run(set_limit)  # noqa: SLF001  # a pragma of this very connection
