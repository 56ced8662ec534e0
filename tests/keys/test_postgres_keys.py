import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from command_service.keys.postgres import PostgresKeys
from shared.errors import Unavailable
from tests.keys.contract import ADA, BOB, KeyStoreContract
from tests.postgres.databases import execute


class TestPostgresKeys(KeyStoreContract):
    @pytest.fixture
    async def keys(self, postgres_url: str) -> AsyncIterator[PostgresKeys]:
        keys = await PostgresKeys.open(postgres_url)
        yield keys
        await keys.close()


async def test_several_services_have_the_same_keys(postgres_url: str) -> None:
    stores = await asyncio.gather(*(PostgresKeys.open(postgres_url) for _ in range(4)))
    try:
        made = await asyncio.gather(*(each.make([ADA, BOB]) for each in stores))
        assert made == made[:1] * len(stores)
        await stores[0].destroy([ADA])
        assert await stores[1].make([ADA, BOB]) == {ADA: b"", BOB: made[0][BOB]}
    finally:
        await asyncio.gather(*(each.close() for each in stores))


async def test_keys_are_found_again_after_the_connections_were_cut(postgres_url: str) -> None:
    keys = await PostgresKeys.open(postgres_url)
    try:
        made = await keys.make([ADA])
        await execute(
            postgres_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND application_name = 'tidemark'",
        )
        # What is asked on a connection that is gone has no answer; the next one has.
        with suppress(Unavailable):
            await keys.find([ADA])
        assert await keys.find([ADA]) == made
    finally:
        await keys.close()
