"""A new query service reads the whole log; projections are built anew."""

import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial

from benchmarks import plots, projections, usage
from benchmarks.completing import completed, history_of, streamed, uses
from benchmarks.errors import BenchmarkFailed
from benchmarks.logs import Log, mixed, place_log, start_both
from benchmarks.measurement import Curve, Measurement
from benchmarks.rounds import Notes
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.stage import Stage
from examples.services import Service

POLL_S = 0.2
LOG_SHARE = 0.2
"""Of the events of a large log, so that there is time for all rounds."""

SHARES = (0.1, 0.5, 1.0)
"""Of the log, at which memory is looked at."""


class CatchUp:
    """Starts query services from nothing, and watches them until they have all of a log.

    Args:
        stage: where the command service has the log.
        command: that service.
        events: how many the log has.
        notes: of the memory at some points.
    """

    def __init__(self, stage: Stage, command: Service, events: int, notes: Notes) -> None:
        self._stage = stage
        self._command = command
        self._events = events
        self._notes = notes
        self.curves: dict[str, Curve] = {}
        """Positions, of the last round."""

    async def measure(self) -> Measurement:
        """From starting the process until the copy and every projection are at the head."""
        shutil.rmtree(self._stage.store_folder, ignore_errors=True)
        self.curves.clear()
        command_before = usage.cpu_s(self._command.process.pid)
        started = time.monotonic()
        query = await self._stage.start_query_service(self._command)
        await self._watch(query, started)
        seconds = time.monotonic() - started
        measurement = Measurement(
            operations=self._events,
            all_operations=self._events,
            seconds=seconds,
            latencies_us=[],
            processes=uses([self._command, query], [command_before, 0.0]),
        )
        self._notes.add("s", seconds)
        await query.stop()
        return measurement

    async def _watch(self, query: Service, started: float) -> None:
        shares = list(SHARES)
        async with aclosing(
            projections.progress(query.address, self._events, POLL_S)
        ) as all_progress:
            async for progress in all_progress:
                for name, position in progress.positions.items():
                    self.curves.setdefault(name, []).append((progress.at - started, position))
                while shares and progress.least >= shares[0] * self._events:
                    rss_mb = usage.rss_bytes(query.process.pid) / 1e6
                    self._notes.add(f"MB resident at {shares.pop(0):.0%}", rss_mb)


@asynccontextmanager
async def caught_up(stage: Stage) -> AsyncIterator[Comparison]:
    """A query service from nothing, beside one subscriber that reads the same log."""
    log = _log(stage)
    await place_log(stage, log)
    command = await stage.start_command_service()
    notes = Notes()
    catch_up = CatchUp(stage, command, log.events, notes)
    comparison = Comparison(
        Side("subscriber", lambda: streamed(history_of(command), log.events, [command])),
        Side("query service", catch_up.measure),
    )
    yield comparison
    comparison.figures.update(notes.medians())
    comparison.curves.update(catch_up.curves)


@asynccontextmanager
async def rebuilt(name: str, stage: Stage) -> AsyncIterator[Comparison]:
    """A projection built anew from the copy of the log, beside one subscriber to that copy."""
    log = _log(stage)
    command, query = await start_both(stage, log)
    await command.stop()
    notes = Notes()

    async def rebuild() -> None:
        position = await projections.rebuild(query.address, name)
        if position != log.events:
            raise BenchmarkFailed(f"The new {name} are at {position}")

    async def measure() -> Measurement:
        measurement = await completed(rebuild, log.events, [query])
        notes.add("s", measurement.seconds)
        return measurement

    comparison = Comparison(
        Side("subscriber", lambda: streamed(history_of(query), log.events, [query])),
        Side("rebuild", measure),
    )
    yield comparison
    comparison.figures.update(notes.medians())


def _log(stage: Stage) -> Log:
    return mixed(round(stage.conditions.log_events * LOG_SHARE))


def _scenario(
    name: str, title: str, compare: Callable[[Stage], AbstractAsyncContextManager[Comparison]]
) -> Scenario:
    return Scenario(name, title, "events", compare)


REPLICA = Group(
    name="replica",
    title="A query service built from nothing, and projections built anew",
    scenarios=(
        _scenario("from-nothing", "read by a new query service", caught_up),
        _scenario("rebuild-ships", "in a rebuild of ships", partial(rebuilt, "ships")),
        _scenario("rebuild-users", "in a rebuild of users", partial(rebuilt, "users")),
    ),
    plot=partial(plots.over_time, name="from-nothing", label="position"),
)
