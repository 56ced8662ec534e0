"""Both services with everything asked for, shared by the tests of a module."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.security.secured import Secured, secured


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    """Both services for all tests of the module."""
    async with secured(tmp_path_factory.mktemp("secured"), "--channelz") as services:
        yield services


@pytest.fixture
def ship_id() -> str:
    """The id of a ship that no other test has."""
    return f"ship-{uuid4()}"
