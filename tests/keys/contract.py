"""What every key store promises."""

import asyncio

import pytest

from command_service.keys.copying import copy_keys
from command_service.keys.store import MAX_PAGE_KEYS, KeyCheckpoint, KeyStore
from shared.errors import DataLoss
from shared.log.log import AggregateKey, place_of
from shared.personal.sealing import DESTROYED, KEY_BYTES, new_key
from tests.keys.memory import MemoryKeys
from tests.log.builders import user

ADA, BOB, CYD = user("ada"), user("bob"), user("cyd")


async def every_page(keys: KeyStore) -> list[tuple[AggregateKey, bytes]]:
    found: list[tuple[AggregateKey, bytes]] = []
    while page := await keys.page(found[-1][0] if found else None):
        found += page.items()
    return found


class KeyStoreContract:
    """For a fixture `keys`, an empty store."""

    async def test_a_key_is_made_once_and_found_again(self, keys: KeyStore) -> None:
        made = await keys.make([ADA, BOB])
        assert made.keys() == {ADA, BOB}
        assert {len(key) for key in made.values()} == {KEY_BYTES}
        assert made[ADA] != made[BOB]
        assert await keys.make([BOB, ADA]) == made
        assert await keys.find([ADA, CYD]) == {ADA: made[ADA]}

    async def test_the_same_id_in_two_tenants_and_kinds_has_keys_of_its_own(
        self, keys: KeyStore
    ) -> None:
        others = [user("ada", "umbrella"), AggregateKey("acme", "ship", "ada"), ADA]
        assert len(set((await keys.make(others)).values())) == 3

    async def test_of_many_who_make_it_at_once_all_get_the_same_key(self, keys: KeyStore) -> None:
        made = await asyncio.gather(*(keys.make([ADA, user(f"{n}")]) for n in range(20)))
        assert len({each[ADA] for each in made}) == 1

    async def test_a_destroyed_key_is_never_there_again(self, keys: KeyStore) -> None:
        made = await keys.make([ADA, BOB])
        await keys.destroy([ADA])
        assert await keys.find([ADA, BOB]) == {ADA: DESTROYED, BOB: made[BOB]}
        assert await keys.make([ADA, BOB]) == {ADA: DESTROYED, BOB: made[BOB]}

    async def test_to_destroy_a_key_again_changes_nothing(self, keys: KeyStore) -> None:
        await keys.make([ADA])
        for _ in range(2):
            await keys.destroy([ADA, BOB])
            assert await keys.find([ADA, BOB]) == {ADA: DESTROYED, BOB: DESTROYED}

    async def test_whoever_is_erased_without_ever_having_had_a_key_gets_none(
        self, keys: KeyStore
    ) -> None:
        await keys.destroy([ADA])
        assert await keys.make([ADA]) == {ADA: DESTROYED}

    async def test_ids_are_taken_as_they_are(self, keys: KeyStore) -> None:
        odd = [user("'; DROP TABLE keys"), user("%"), user("é"), user("É"), user("x" * 128)]
        made = dict(await keys.make(odd))
        await keys.destroy(odd[:2])
        assert await keys.find(odd) == made | dict.fromkeys(odd[:2], DESTROYED)

    async def test_it_keeps_how_far_erasures_were_carried_out(self, keys: KeyStore) -> None:
        assert await keys.checkpoint() == KeyCheckpoint()
        await keys.reach(KeyCheckpoint(7, bytes([7]) * 32))
        assert await keys.checkpoint() == KeyCheckpoint(7, bytes([7]) * 32)

    async def test_its_pages_have_every_key_once_and_in_order(self, keys: KeyStore) -> None:
        everybody = [user(f"{n:04}") for n in range(MAX_PAGE_KEYS + 5)]
        made = dict(await keys.make(everybody))
        await keys.destroy([everybody[3]])
        found = await every_page(keys)
        assert [each for each, _ in found] == sorted(everybody, key=place_of)
        assert dict(found) == made | {everybody[3]: DESTROYED}

    async def test_it_takes_the_keys_of_another_store(self, keys: KeyStore) -> None:
        made = dict(await keys.make([ADA]))
        others = made | {BOB: new_key(), CYD: DESTROYED}
        for _ in range(2):
            await keys.keep(others)
            assert await keys.find([ADA, BOB, CYD]) == others

    async def test_what_was_destroyed_in_either_is_destroyed(self, keys: KeyStore) -> None:
        made = await keys.make([ADA, BOB])
        await keys.destroy([BOB])
        await keys.keep({ADA: DESTROYED, BOB: made[BOB]})
        assert await keys.find([ADA, BOB]) == {ADA: DESTROYED, BOB: DESTROYED}

    async def test_all_of_it_is_copied_and_copied_again(self, keys: KeyStore) -> None:
        other = MemoryKeys()
        everybody = [user(f"{n:04}") for n in range(MAX_PAGE_KEYS + 5)]
        await other.make(everybody)
        await other.destroy(everybody[:3])
        for count in (len(everybody), len(everybody) + 1):
            assert await copy_keys(other, keys) == count
            assert dict(await every_page(keys)) == other.keys
            await other.make([ADA])
            await other.destroy([everybody[-1]])

    async def test_another_key_is_refused_and_nothing_is_taken(self, keys: KeyStore) -> None:
        made = await keys.make([ADA])
        with pytest.raises(DataLoss, match="KEYS_DIVERGED"):
            await keys.keep({BOB: new_key(), ADA: new_key()})
        assert await keys.find([ADA, BOB]) == made
