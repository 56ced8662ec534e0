"""Both services as they are wired: all but gRPC, the threads of SQLite and the clocks is real."""

import asyncio
import sqlite3
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

import shared.sqlite
from command_service import admission, executor
from command_service.aggregates import RULES
from command_service.executor import Executor
from query_service import (
    aggregate_queries,
    building,
    past,
    projection_service,
    projector,
    replica,
    states,
    store,
)
from query_service.past import Past
from query_service.projection_service import Projections
from query_service.projections import PROJECTIONS
from query_service.projector import Projector
from query_service.replica import Replica
from query_service.state_cache import StateCache
from query_service.unsealing import Unsealing
from shared import event_log_service, following
from shared.event_log_service import EventLogService
from shared.log.log import OutcomeUnknown
from shared.log.sqlite import SqliteLog, indexing, newest
from shared.sqlite import Readers
from tests.keys.memory import MemoryKeys
from tests.model.disk import Database, SimulatedConnection
from tests.model.process import Process
from tests.model.simulation import SimulatedTime, running_simulation
from tests.model.wire import InProcess, Server

AGGREGATES = [rules.aggregate for rules in RULES]


def simulate(patch: pytest.MonkeyPatch) -> None:
    """Gives the services threads and clocks of the simulation's."""
    patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Database))
    patch.setattr(shared.sqlite, "Connection", SimulatedConnection)
    for module in (aggregate_queries, event_log_service, projection_service, replica):
        patch.setattr(module, "time", SimulatedTime)


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Has a few events reach every bound that it takes thousands to reach."""
    patch.setattr(executor, "MAX_DECIDED", 3)
    patch.setattr(executor, "MAX_DECIDED_OF_SEVERAL", 2)
    patch.setattr(executor, "QUIET_TURNS", 2)
    patch.setattr(admission, "PLACES", 2)
    patch.setattr(executor, "MAX_GROUP_EVENTS", 4)
    patch.setattr(indexing, "INDEX_EVENTS", 5)
    patch.setattr(newest, "MAX_BYTES", 1500)
    patch.setattr(shared.sqlite, "WAL_PAGES", 8)
    patch.setattr(Readers, "connect", partial(Readers.connect, count=2))
    patch.setattr(event_log_service, "DEFAULT_BATCH_EVENTS", 3)
    patch.setattr(following, "MAX_PAGE_EVENTS", 3)
    patch.setattr(replica, "MAX_PAGE_EVENTS", 3)
    patch.setattr(replica, "MAX_GATHERED_EVENTS", 4)
    patch.setattr(building, "BATCH_EVENTS", 4)
    for module in (projection_service, projector):
        patch.setattr(module, "CLOSE_EVENTS", 4)
    for module in (past, states):
        patch.setattr(module, "KEPT_EVERY", 3)
    patch.setattr(store, "StateCache", partial(StateCache, 1500))


class CommandService:
    """One life of a command service.

    Args:
        process: that it is.
        writers: executors on its log, which then have to reckon with one another.
        keys: what they encrypt with, which no death of theirs can harm.
    """

    def __init__(self, process: Process, writers: int, keys: MemoryKeys) -> None:
        self.process = process
        self._keys = keys
        self.log: SqliteLog
        self.executors: list[Executor] = []
        self.event_log: EventLogService | None = None
        self._writers = writers

    @property
    def is_serving(self) -> bool:
        """Whether it takes commands."""
        return self.process.is_alive and self.event_log is not None

    async def serve(self) -> None:
        """Serves until it is killed, or has to end."""
        clock = running_simulation().wall_clock
        self.log = await SqliteLog.open(self.process.folder / "log.db", clock=clock)
        try:
            self.log.is_exclusive = self._writers == 1
            self.event_log = EventLogService(self.log, AGGREGATES)
            for _ in range(self._writers):
                self.executors.append(
                    Executor(self.log, self._keys, max_cached=3, snapshot_every=3)
                )
            async with asyncio.TaskGroup() as tasks:
                for each in self.executors:
                    tasks.create_task(each.run())
        except* OutcomeUnknown:
            self.process.die()
        finally:
            await self.log.close()


class QueryService:
    """One life of a query service.

    Args:
        process: that it is.
        upstream: what it follows.
        keys: what it decrypts with.
    """

    def __init__(self, process: Process, upstream: Server, keys: MemoryKeys) -> None:
        self.process = process
        self._unsealing = Unsealing(keys, AGGREGATES)
        self.log: SqliteLog
        self.replica: Replica
        self.projectors: dict[str, Projector] = {}
        """By the kind of aggregate."""
        self.queries: dict[str, Any] = {}
        """The same."""
        self.projections: Projections
        self.event_log: EventLogService | None = None
        self.is_ready = False
        self.faults: list[str] = []
        """What is wrong and does not mend by itself."""
        self._upstream = upstream

    @property
    def is_serving(self) -> bool:
        """Whether it answers."""
        return self.process.is_alive and self.is_ready

    async def serve(self) -> None:
        """Serves until it is killed, or has to end."""
        async with AsyncExitStack() as open_files:
            clock = running_simulation().wall_clock
            self.log = await SqliteLog.open(
                self.process.folder / "log.db",
                synchronous="NORMAL",
                with_receipts=False,
                clock=clock,
            )
            open_files.push_async_callback(self.log.close)
            self.replica = Replica(self.log, InProcess(server=self._upstream), self._note_fault)
            for projection in PROJECTIONS:
                each = await Projector.open(
                    projection, self.log, self.process.folder, self._unsealing
                )
                open_files.push_async_callback(each.close)
                self.projectors[projection.aggregate.name] = each
            projectors = list(self.projectors.values())
            past = Past(self.log, projectors)
            for kind, each in self.projectors.items():
                self.queries[kind] = each.projection.queries(each, past)
            self.projections = Projections(self.log, self.replica, projectors)
            self.event_log = EventLogService(self.log, AGGREGATES, lambda: self.replica.origin)
            for each in projectors:
                await each.begin()
            self.is_ready = True
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self.replica.run())
                    for each in projectors:
                        tasks.create_task(each.run())
                        tasks.create_task(self._note_fault_of(each))
            except* OutcomeUnknown:
                self.process.die()

    async def _note_fault(self) -> None:
        self.faults.append(f"Following has stopped: {self.replica.fault}")

    async def _note_fault_of(self, projector: Projector) -> None:
        while projector.fault is None:
            await projector.changed()
        self.faults.append(f"{projector.projection.name} has stopped: {projector.fault}")
