"""Keeps one projection up to date and answers from it: its faults, its rebuilds, its watchers."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import structlog

from query_service.building import CLOSE_EVENTS, Building, ProjectionFault
from query_service.projection import Projection
from query_service.states import KeptState, newest_kept_state
from query_service.store import ProjectionStore
from query_service.unsealing import Unsealing
from query_service.waiting import patience
from shared.call import Call
from shared.changes import Changes
from shared.errors import DataLoss, Exhausted, Internal, TidemarkError, Unavailable
from shared.log.log import AggregateKey, EventLog
from shared.outage import Outage
from shared.telemetry.metrics import REBUILDS

RETRY_S = 1.0
"""After an error of the machine, such as a full disk."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

logger = structlog.get_logger(__name__)


class Rebuild:
    """How far a rebuild has come."""

    def __init__(self) -> None:
        self.position = 0
        self.is_done = False
        self.failure: TidemarkError | None = None
        self.changes = Changes()

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing more to come."""
        return self.is_done or self.failure is not None


class Projector:
    """Runs one projection on the copy of the log. Made by `open`."""

    def __init__(
        self,
        projection: Projection[Any],
        log: EventLog,
        folder: Path,
        store: ProjectionStore,
        unsealing: Unsealing,
    ) -> None:
        self.projection = projection
        self._unsealing = unsealing
        self.fault: ProjectionFault | None = None
        self.rebuilding: Rebuild | None = None
        self._log = log
        self._folder = folder
        self._building = Building(log, store)
        self._outage = Outage("projection_delayed", projection=projection.name)
        # So that it is 0 rather than not there.
        REBUILDS.labels(projection.name, "done")
        self._changes = Changes()
        self._watchers: dict[AggregateKey, set[asyncio.Event]] = {}
        # Held while the store moves on, so that a rebuilt one can take its place in between.
        self._moving = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()
        self._is_running = False

    @classmethod
    async def open(
        cls, projection: Projection[Any], log: EventLog, folder: Path, unsealing: Unsealing
    ) -> "Projector":
        """Opens the projection's file in the folder, or makes it."""
        store = await ProjectionStore.open_live(folder, projection)
        return cls(projection, log, folder, store, unsealing)

    @property
    def position(self) -> int:
        """Answers contain every event up to here."""
        return self._building.position

    @property
    def is_verified(self) -> bool:
        """Whether it is known to be of this log; before that it answers nothing."""
        return self._building.is_verified

    async def changed(self) -> None:
        """Returns when it has moved on, has stopped, or goes on again; see `Changes.next`."""
        await self._changes.next()

    async def begin(self) -> None:
        """Makes sure, if the log is long enough already, that the projection is of this log."""
        if self._building.can_step and not self._building.is_verified:
            await self._step()

    async def run(self) -> None:
        """Follows the log until cancelled."""
        async with self._tasks:
            self._is_running = True
            try:
                await self._follow()
            finally:
                self._is_running = False

    async def state(
        self, call: Call, min_position: int, key: AggregateKey
    ) -> tuple[bytes | None, int]:
        """The serialized state of an aggregate, once the projection has reached a position.

        Returns:
            None if there is no such aggregate; and the position that this is true of.

        Raises:
            Unavailable: PROJECTION_BEHIND or PROJECTION_FAULTED.
        """
        await self._reach(min_position, call)
        return await self._building.store.state(key)

    async def query(
        self,
        call: Call,
        min_position: int,
        work: Callable[[sqlite3.Connection, *Arguments], T],
        *arguments: *Arguments,
    ) -> tuple[T, int]:
        """Answers from the projection's tables once it has reached a position.

        Returns:
            What `work` returned, and the position that it is true of.

        Raises:
            Unavailable: PROJECTION_BEHIND or PROJECTION_FAULTED.
        """
        await self._reach(min_position, call)
        return await self._building.store.read(work, *arguments)

    async def unseal(self, tenant_id: str, states: Sequence[Any]) -> None:
        """Makes readable, in place, what is personal in states that go to a caller.

        Raises:
            TidemarkError: see `query_service.unsealing.Unsealing`.
        """
        await self._unsealing.states(self.projection.aggregate, tenant_id, states)

    async def kept_state(
        self, key: AggregateKey, position: int, version: int | None
    ) -> KeptState | None:
        """See `newest_kept_state`; whatever the projection's own state, it may have none."""
        if not self.is_verified:
            return None
        store = self._building.store
        found, _ = await store.read(newest_kept_state, key, position, version)
        return found

    @contextmanager
    def watching(self, key: AggregateKey) -> Iterator[asyncio.Event]:
        """An event that is set whenever the aggregate may have changed."""
        changed = asyncio.Event()
        watchers = self._watchers.setdefault(key, set())
        watchers.add(changed)
        try:
            yield changed
        finally:
            watchers.discard(changed)
            if not watchers and self._watchers.get(key) is watchers:
                del self._watchers[key]

    def rebuild(self) -> Rebuild:
        """Starts a rebuild, or joins the one that runs.

        Raises:
            Unavailable: NOT_RUNNING: `run` does not run yet, or no more.
        """
        if not self._is_running:
            raise Unavailable("NOT_RUNNING", "The service is starting or ending")
        if self.rebuilding is None:
            self.rebuilding = Rebuild()
            name = f"rebuild {self.projection.name}"
            self._tasks.create_task(self._rebuild(self.rebuilding), name=name)
        return self.rebuilding

    async def close(self) -> None:
        """Closes the projection's file."""
        await self._building.store.close()

    async def _follow(self) -> None:
        while True:
            while self.fault is not None:
                await self._changes.next()
            # A rebuild may have put another one in its place meanwhile.
            while not self._building.can_step:
                await self._log.wait(self._log.head.position)
            await self._step()

    async def _reach(self, position: int, call: Call) -> None:
        if not self._has_reached(position):
            async with patience(call, f"position {position}"):
                while not self._has_reached(position):
                    await self._changes.next()
        if self.fault is not None:
            raise self._faulted(self.fault)

    def _has_reached(self, position: int) -> bool:
        """Whether a query can be answered, or has to be refused, rather than wait."""
        if self.fault is not None:
            return True
        return self._building.is_verified and self.position >= position

    async def _step(self) -> None:
        try:
            async with self._moving:
                touched = await self._building.step()
            self._outage.succeeded()
            self._publish(touched)
        except ProjectionFault as fault:
            self._stop(fault)
        except DataLoss as error:
            self._stop(ProjectionFault(self.position + 1, str(error)))
        except (Exhausted, Unavailable) as error:
            self._outage.failed(error.reason, exc_info=error)
            await asyncio.sleep(RETRY_S)

    def _stop(self, fault: ProjectionFault) -> None:
        name = self.projection.name
        logger.error("projection_faulted", projection=name, fault=str(fault), exc_info=fault)
        self.fault = fault
        self._publish(set(self._watchers))

    def _publish(self, touched: set[AggregateKey]) -> None:
        self._changes.notify()
        for key in touched & self._watchers.keys():
            for changed in self._watchers[key]:
                changed.set()

    async def _rebuild(self, rebuild: Rebuild) -> None:
        name = self.projection.name
        logger.info("rebuild_started", projection=name)
        try:
            await self._build_anew(rebuild)
            rebuild.is_done = True
            REBUILDS.labels(name, "done").inc()
            logger.info("rebuild_done", projection=name, position=self.position)
        except ProjectionFault as fault:
            logger.exception("rebuild_faulted", projection=name, position=fault.position)
            rebuild.failure = self._faulted(fault)
        except TidemarkError as error:
            logger.exception("rebuild_failed", projection=name)
            rebuild.failure = error
        except Exception:
            logger.exception("rebuild_failed_unexpectedly", projection=name)
            rebuild.failure = Internal()
        finally:
            if rebuild.failure is not None:
                REBUILDS.labels(name, rebuild.failure.reason).inc()
            self.rebuilding = None
            rebuild.changes.notify()

    async def _build_anew(self, rebuild: Rebuild) -> None:
        store = await ProjectionStore.create(self._folder, self.projection, is_live=False)
        building = Building(self._log, store)
        unused = building
        try:
            while self._log.head.position - building.position > CLOSE_EVENTS:
                await self._step_rebuild(building, rebuild)
            async with self._moving:
                # Where it was then: nobody is answered meanwhile.
                head = self._log.head.position
                while building.position < head:
                    await self._step_rebuild(building, rebuild)
                await store.go_live()
                self._building, unused = building, self._building
            self.fault = None
            self._publish(set(self._watchers))
        finally:
            await unused.store.delete()

    async def _step_rebuild(self, building: Building, rebuild: Rebuild) -> None:
        await building.step()
        rebuild.position = building.position
        rebuild.changes.notify()

    def _faulted(self, fault: ProjectionFault) -> Unavailable:
        return Unavailable(
            "PROJECTION_FAULTED",
            f"Projection {self.projection.name} has stopped before position {fault.position}",
            projection=self.projection.name,
            fault_position=fault.position,
        )
