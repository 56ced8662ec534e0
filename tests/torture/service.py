"""A service with small bounds, and perhaps with a disk that fails or a weakness of its own.

Runs as `python -m tests.torture.service serve …`; its environment says which service, and what is
to be wrong with it. Its bounds are so small that a run of some hundred events comes to everything
that otherwise takes thousands: the index, the WAL's way into the database, an aggregate that has to
be loaded, a snapshot.
"""

import os
import runpy

import command_service.executor
import query_service.building
import query_service.past
import query_service.projection_service
import query_service.projector
import query_service.replica
import query_service.state_cache
import query_service.states
import shared.following
import shared.log.sqlite.indexing
import shared.log.sqlite.newest
import shared.sqlite
from tests.torture import faulty_disk, shifted_clock
from tests.torture.weaknesses import WEAKNESSES

SERVICE_VARIABLE = "TIDEMARK_TORTURE_SERVICE"
DISK_VARIABLE = "TIDEMARK_TORTURE_DISK"
WEAKNESS_VARIABLE = "TIDEMARK_TORTURE_WEAKNESS"

KEPT_EVERY = 10


def set_small_bounds() -> None:
    """Has the service come to all its bounds within seconds."""
    shared.log.sqlite.indexing.INDEX_EVENTS = 50
    shared.log.sqlite.newest.MAX_BYTES = 16 << 10
    shared.sqlite.WAL_PAGES = 60
    query_service.building.BATCH_EVENTS = 100
    for module in (query_service.projection_service, query_service.projector):
        module.CLOSE_EVENTS = 100  # type: ignore[attr-defined]  # each imports it
    for module in (shared.following, query_service.replica):
        module.MAX_PAGE_EVENTS = 50  # type: ignore[attr-defined]  # the same
    query_service.replica.MAX_GATHERED_EVENTS = 100
    for module in (query_service.past, query_service.states):
        module.KEPT_EVERY = KEPT_EVERY  # type: ignore[attr-defined]  # the same
    query_service.state_cache.StateCache.__init__.__defaults__ = (8 << 10,)
    command_service.executor.Executor.__init__.__kwdefaults__ |= {  # type: ignore[operator]  # it has some
        "max_cached": 10,
        "snapshot_every": 5,
    }


if __name__ == "__main__":
    set_small_bounds()
    if DISK_VARIABLE in os.environ:
        faulty_disk.install()
    shifted_clock.install()
    if weakness := os.environ.get(WEAKNESS_VARIABLE):
        WEAKNESSES[weakness]()
    runpy.run_module(os.environ[SERVICE_VARIABLE], run_name="__main__", alter_sys=True)
