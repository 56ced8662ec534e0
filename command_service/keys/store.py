"""The key store, as a port; `tests/keys/contract.py` holds its promises."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from shared.log.log import EMPTY_DIGEST, AggregateKey
from shared.personal.sealing import Keys

MAX_PAGE_KEYS = 1000


@dataclass(frozen=True, slots=True)
class KeyCheckpoint:
    """Every erasure up to here, of this log, was carried out."""

    position: int = 0
    digest: bytes = EMPTY_DIGEST


class KeyStore(Protocol):
    """A key for each aggregate that has personal fields.

    A key is made once, and never changes until it is destroyed; from then on there is none again.
    What a method did is durable when it returns.

    Every method may raise `shared.errors.Unavailable`, `Exhausted` and `DataLoss`, as those of a
    log; and those that write, `shared.log.log.OutcomeUnknown`, after which the process has to end.
    """

    async def find(self, aggregates: Collection[AggregateKey]) -> Keys:
        """The keys that there are, or were."""
        ...

    async def make(self, aggregates: Collection[AggregateKey]) -> Keys:
        """The same, of all of them: those that never had one get one."""
        ...

    async def destroy(self, aggregates: Collection[AggregateKey]) -> None:
        """Overwrites the keys; whichever never had one never gets one."""
        ...

    async def checkpoint(self) -> KeyCheckpoint:
        """How far the log's erasures were carried out."""
        ...

    async def reach(self, checkpoint: KeyCheckpoint) -> None:
        """Keeps that."""
        ...

    async def page(self, after: AggregateKey | None) -> Keys:
        """The next at most MAX_PAGE_KEYS after an aggregate, in the order of `place_of`."""
        ...

    async def keep(self, keys: Keys) -> None:
        """Takes the keys of another store; what was destroyed in either is destroyed.

        Raises:
            shared.errors.DataLoss: KEYS_DIVERGED: an aggregate has another key here; nothing was
                written.
        """
        ...

    async def close(self) -> None:
        """Closes it."""
        ...
