"""An event loop in a time of its own, whose processes die wherever a test wants them to.

All that runs in it is one thread's, in an order that a seed decides: what takes time, be it a
thread of SQLite's or the way from one process to another, is a timer here. So whatever happens
happens again. After FoundationDB's simulation (Will Wilson, "Testing Distributed Systems w/
Deterministic Simulation", Strange Loop 2014).
"""

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from tests.log.builders import NOON, SECOND
from tests.model.process import Process, process_of

TURN_S = 1e-6
"""What a turn of the event loop takes, so that time goes on while somebody is busy waiting."""

DELAYS_S = (1e-5, 1e-3)
"""What a piece of work elsewhere takes, at least and at most."""

PATIENCE_S = 60.0
"""Never used up, unless something hangs."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class _Waiting(selectors.SelectSelector):
    """Waits by moving the time on; nothing ever comes from outside."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "Everybody waits for something that will never happen"
        self.now += timeout + TURN_S
        return []


class Simulation(asyncio.SelectorEventLoop):
    """See the module's description.

    Args:
        seed: of how long everything takes.
    """

    def __init__(self, seed: int) -> None:
        self._waiting = _Waiting()
        super().__init__(self._waiting)
        self._chance = random.Random(seed)  # noqa: S311  # no secret
        self.clock_shift = 0
        """How wrong the wall clock is, in microseconds."""
        self.unforeseen: list[str] = []
        """What should have happened to nobody."""
        self.said: list[Callable[[], object]] | None = None
        """What the thread that is played now tells the loop meanwhile; None: none is."""
        self.set_exception_handler(lambda _, context: self.unforeseen.append(str(context)))

    # For the test

    def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns; all else goes on meanwhile."""
        return self.run_until_complete(asyncio.wait_for(work, PATIENCE_S))

    def begin(self, process: Process, main: Coroutine[Any, Any, None]) -> None:
        """Has a process run its main task; it has to live until it is killed."""

        def note_end(task: asyncio.Task[None]) -> None:
            if process.is_alive:
                self.unforeseen.append(f"{process.folder} has ended: {task.exception()!r}")

        self.create_task(main, context=process.context).add_done_callback(note_end)

    # For whoever takes time in it

    def delay(self) -> float:
        """What the next piece of work elsewhere takes, in seconds."""
        return self._chance.uniform(*DELAYS_S)

    def wall_clock(self) -> int:
        """Microseconds since 1970, as far as the machine knows."""
        return NOON + round(self.time() * SECOND) + self.clock_shift

    # The event loop's

    def time(self) -> float:
        return self._waiting.now

    def call_soon(
        self,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        return super().call_soon(_take_turn, callback, args, context=context)

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        if self.said is None:
            return super().call_soon_threadsafe(callback, *args, context=context)
        self.said.append(partial(callback, *args))
        return asyncio.Handle(callback, args, self, context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return super().call_at(when, _take_turn, callback, args, context=context)

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> Any:
        task = super().create_task(coro, name=name, context=context)
        if (process := process_of(context)) is not None:
            process.own(task)
        return task

    def run_in_executor(
        self, _executor: Any, function: Callable[[*Arguments], T], *args: *Arguments
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if not future.cancelled():
                future.set_result(function(*args))

        self.call_later(self.delay(), work)
        return future


def _take_turn(callback: Callable[[*Arguments], object], args: tuple[*Arguments]) -> None:
    if (process := process_of(None)) is not None:
        process.pass_place()
    callback(*args)


def running_simulation() -> Simulation:
    """The one that runs now."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Simulation)
    return loop


class SimulatedTime:
    """In the place of the module `time`."""

    @staticmethod
    def monotonic() -> float:
        return running_simulation().time()

    perf_counter = monotonic

    @staticmethod
    def time() -> float:
        return running_simulation().wall_clock() / SECOND

    @staticmethod
    def time_ns() -> int:
        return running_simulation().wall_clock() * 1000
