from collections.abc import AsyncIterator, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.log.log import EventLog
from shared.log.memory import MemoryLog
from shared.log.sqlite import SqliteLog
from tests.executor.logs import GatedLog


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What the operator is told. Kept from the terminal: there, each traceback takes 100 ms."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventLog]:
    """A log for several writers, and one for a single writer."""
    opened: EventLog
    opened = MemoryLog() if request.param == "memory" else await SqliteLog.open(tmp_path / "log.db")
    yield opened
    await opened.close()


@pytest.fixture
async def exclusive_log() -> GatedLog:
    """For a single writer."""
    return GatedLog(is_exclusive=True)


@pytest.fixture
async def shared_log() -> GatedLog:
    """For several writers."""
    return GatedLog(is_exclusive=False)


@pytest.fixture(params=[True, False], ids=["one writer", "several writers"])
async def gated_log(request: pytest.FixtureRequest) -> GatedLog:
    return GatedLog(is_exclusive=request.param)
