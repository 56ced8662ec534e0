"""A process of the simulation: one life of a service, and what is left of it."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

_PROCESS: ContextVar["Process | None"] = ContextVar("_PROCESS", default=None)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Trouble(Enum):
    """What happens to a commit."""

    FULL = "there is no room for it"
    LOST = "nobody can tell whether it was written, and it was not"
    WRITTEN = "nobody can tell whether it was written, and it was"


class Died(Exception):
    """Whoever was asked is no more: nobody knows what it has done."""


class Process:
    """See the module's description.

    Death is a copy of the files as they are at that moment, for the next life to find. What the
    tasks of the dead still do to clean up happens to files that nobody looks at again.

    Args:
        folder: where its files are, named by the number of this life.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_alive = True
        self.places = 0
        """How many it has passed of those at which it can die."""
        self.trouble: Trouble | None = None
        """What its next commit meets."""
        self.has_met_trouble = False
        self.at_end: list[Callable[[], None]] = []
        """What the kernel would do: it closes what is open."""
        self.context = copy_context()
        self.context.run(_PROCESS.set, self)
        self._last_place: int | None = None
        self._tasks: dict[asyncio.Task[Any], None] = {}

    @property
    def next_folder(self) -> Path:
        """What the next life begins with, once this one is over."""
        return self.folder.with_name(str(int(self.folder.name) + 1))

    def die_after(self, places: int) -> None:
        """Has it die when it has passed so many more of the places at which it can."""
        self._last_place = self.places + places

    def spare(self) -> None:
        """Lets it live, and leaves it alone."""
        self._last_place = None
        self.trouble = None

    def pass_place(self) -> None:
        """To be called where it can die. What comes next has no effect then."""
        self.places += 1
        if self._last_place is not None and self.places > self._last_place:
            self.die()

    def die(self) -> None:
        """It is dead: nothing that it does from here on has an effect."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.next_folder.mkdir()
        for path in self.folder.iterdir():
            # What processes share in memory, and the lock that a process holds, end with it.
            if not path.name.endswith(("-shm", ".lock")):
                shutil.copyfile(path, self.next_folder / path.name)
        for task in list(self._tasks):
            task.cancel()

    async def buried(self) -> None:
        """Returns when nothing of a dead one runs any more."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(list(self._tasks), timeout=1.0)
        for close in self.at_end:
            close()

    async def answer(self, work: Callable[[*Arguments], Awaitable[T]], *arguments: *Arguments) -> T:
        """What it does for somebody else.

        Raises:
            Died: it did not live to answer.
        """

        async def do() -> T:
            return await work(*arguments)

        doing = asyncio.get_running_loop().create_task(do(), context=self.context)
        if not self.is_alive:
            doing.cancel()
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError:
            doing.cancel()
            raise
        if self.is_alive:
            return doing.result()
        _look_at(doing)
        raise Died

    def own(self, task: asyncio.Task[Any]) -> None:
        """Takes note of a task until it is done."""
        self._tasks[task] = None
        task.add_done_callback(self._disown, context=self.context)

    def _disown(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]
        if not self.is_alive:
            _look_at(task)


def _look_at(task: asyncio.Task[Any]) -> None:
    """Keeps asyncio from calling a failure forgotten of which nobody is left to hear."""
    if not task.cancelled():
        task.exception()


def process_of(context: Context | None) -> Process | None:
    """The one that a context, by default the current one, is of."""
    return _PROCESS.get() if context is None else context.get(_PROCESS)
