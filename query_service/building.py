"""Brings a projection forward along the log."""

from query_service.store import ProjectionCheckpoint, ProjectionFailed, ProjectionStore
from shared.log.log import MAX_PAGE_EVENTS, AggregateKey, EventLog

BATCH_EVENTS = 40_000
BATCH_PAGES = 40
"""Of the log, applied in one transaction; whichever is reached first."""

CLOSE_EVENTS = 20_000
"""To apply them takes a moment: a projection that lacks no more keeps up with the log."""


class ProjectionFault(Exception):
    """A projection has stopped before the event at a position."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"at position {position}: {reason}")
        self.position = position
        self.reason = reason


class Building:
    """A projection's store, and the log that it is built from."""

    def __init__(self, log: EventLog, store: ProjectionStore) -> None:
        self._log = log
        self.store = store
        self._is_verified = self.position == 0

    @property
    def position(self) -> int:
        """How far it has come."""
        return self.store.checkpoint.position

    @property
    def is_verified(self) -> bool:
        """Whether what is in the store is known to come from this log."""
        return self._is_verified

    @property
    def can_step(self) -> bool:
        """Whether the log is long enough for the next step."""
        head = self._log.head.position
        return head > self.position if self._is_verified else head >= self.position

    async def step(self) -> set[AggregateKey]:
        """Applies the next piece of the log, and returns the aggregates that it touched.

        The first step only makes sure that the store comes from this log.

        Raises:
            ProjectionFault: it comes from another one; or an event cannot be applied, and all
                before it are.
        """
        if not self._is_verified:
            await self._verify()
            return set()
        limit = BATCH_EVENTS
        while True:
            records, checkpoint = await self._read(limit)
            try:
                return await self.store.apply(records, checkpoint)
            except ProjectionFailed as error:
                if len(records) == 1:
                    raise ProjectionFault(checkpoint.position, str(error)) from error
                limit = len(records) // 2

    async def _read(self, limit: int) -> tuple[list[bytes], ProjectionCheckpoint]:
        """At most so many records, and the checkpoint after them."""
        records: list[bytes] = []
        position, digest = self.position, self.store.checkpoint.digest
        for _ in range(BATCH_PAGES):
            page = await self._log.read(position, min(limit - len(records), MAX_PAGE_EVENTS))
            records += page.records
            position, digest = page.position, page.digest
            if len(records) >= limit or position >= self._log.head.position:
                break
        return records, ProjectionCheckpoint(position, digest)

    async def _verify(self) -> None:
        if await self._log.digest_at(self.position) != self.store.checkpoint.digest:
            raise ProjectionFault(self.position, "It was built from another log: rebuild it")
        self._is_verified = True
