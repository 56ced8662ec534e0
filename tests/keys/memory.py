"""Keys in memory, for tests of what uses them; it keeps the same contract as the others."""

from collections.abc import Collection

from command_service.keys.store import MAX_PAGE_KEYS, KeyCheckpoint
from shared.errors import DataLoss
from shared.log.log import AggregateKey, place_of
from shared.personal.sealing import DESTROYED, Keys, new_key


class MemoryKeys:
    """See `command_service.keys.store.KeyStore`."""

    def __init__(self) -> None:
        self.keys: dict[AggregateKey, bytes] = {}
        self._checkpoint = KeyCheckpoint()

    async def find(self, aggregates: Collection[AggregateKey]) -> Keys:
        return {each: self.keys[each] for each in aggregates if each in self.keys}

    async def make(self, aggregates: Collection[AggregateKey]) -> Keys:
        for each in aggregates:
            self.keys.setdefault(each, new_key())
        return await self.find(aggregates)

    async def destroy(self, aggregates: Collection[AggregateKey]) -> None:
        self.keys |= dict.fromkeys(aggregates, DESTROYED)

    async def checkpoint(self) -> KeyCheckpoint:
        return self._checkpoint

    async def reach(self, checkpoint: KeyCheckpoint) -> None:
        self._checkpoint = checkpoint

    async def page(self, after: AggregateKey | None) -> Keys:
        ordered = sorted(self.keys, key=place_of)
        rest = [each for each in ordered if after is None or place_of(each) > place_of(after)]
        return {each: self.keys[each] for each in rest[:MAX_PAGE_KEYS]}

    async def keep(self, keys: Keys) -> None:
        for aggregate, key in keys.items():
            own = self.keys.get(aggregate, key)
            if DESTROYED not in {key, own} and own != key:
                raise DataLoss("KEYS_DIVERGED", f"Another key of {aggregate} is there already")
        for aggregate, key in keys.items():
            if key == DESTROYED:
                self.keys[aggregate] = DESTROYED
            else:
                self.keys.setdefault(aggregate, key)

    async def close(self) -> None:
        pass
