"""A deployment that the tests of a module share, and one of a test's own."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.services.caller import Caller
from tests.services.deployment import Deployment, deployment


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    """Both services for all tests of a module, which use ids of their own."""
    async with deployment(tmp_path_factory.mktemp("shared")) as both:
        yield both


@pytest_asyncio.fixture
async def own(tmp_path: Path) -> AsyncIterator[Deployment]:
    """Both services for one test, which may kill them."""
    async with deployment(tmp_path) as both:
        yield both


@pytest.fixture
def ship_id() -> str:
    """The id of a ship that no other test has."""
    return f"ship-{uuid4()}"


@pytest.fixture
def user_id() -> str:
    """The id of a user that no other test has."""
    return f"user-{uuid4()}"


@pytest.fixture
def caller(shared: Deployment) -> Caller:
    """Somebody of a tenant that no other test has."""
    return Caller(shared.commands, shared.queries, f"tenant-{uuid4()}")


@pytest.fixture
def tenant_id() -> str:
    """A tenant that no other test has, so that its events are this test's."""
    return f"tenant-{uuid4()}"
