"""The services that the tests of a module fuzz together."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fuzzing.target import Target, target


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """Both services, for all tests of a module."""
    async with target(tmp_path_factory.mktemp("services")) as both:
        yield both
