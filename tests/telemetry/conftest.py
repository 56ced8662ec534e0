"""Both services with their metrics exposed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.services.deployment import Deployment
from tests.telemetry.scraping import METRICS


@pytest_asyncio.fixture
async def exposed(tmp_path: Path) -> AsyncIterator[Deployment]:
    """Both services for one test, which expose their metrics."""
    both = Deployment(tmp_path)
    try:
        await both.start_command(*METRICS)
        await both.start_query(*METRICS)
        yield both
    finally:
        await both.close()
