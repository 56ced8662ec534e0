"""Brings a projection forward along the log."""

from typing import Any

from google.protobuf.message import DecodeError

from query_service.projection import Projection
from query_service.store import ProjectionCheckpoint, ProjectionFailed, ProjectionStore
from shared.log.log import AggregateKey, EventFilter, EventLog
from tidemark.v1.event_pb2 import RecordedEvent

BATCH_EVENTS = 2000
"""Applied in one transaction."""


class ProjectionFault(Exception):
    """A projection has stopped before the event at a position."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"at position {position}: {reason}")
        self.position = position
        self.reason = reason


class Building:
    """A projection's store, and the log that it is built from."""

    def __init__(self, projection: Projection[Any], log: EventLog, store: ProjectionStore) -> None:
        self._filter = EventFilter(aggregate_types=frozenset({projection.aggregate.name}))
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
        """Applies the next page of the log, and returns the aggregates that it touched.

        The first step only makes sure that the store comes from this log.

        Raises:
            ProjectionFault: it comes from another one; or an event cannot be applied, and all
                before it are.
        """
        if not self._is_verified:
            await self._verify()
            return set()
        page = await self._log.read(self.position, BATCH_EVENTS, self._filter)
        checkpoint = ProjectionCheckpoint(page.position, page.digest)
        try:
            return await self.store.apply(page.records, checkpoint)
        except ProjectionFailed:
            return await self._step_singly(page.records, checkpoint)

    async def _verify(self) -> None:
        if await self._log.digest_at(self.position) != self.store.checkpoint.digest:
            raise ProjectionFault(self.position, "It was built from another log: rebuild it")
        self._is_verified = True

    async def _step_singly(
        self, records: list[bytes], last: ProjectionCheckpoint
    ) -> set[AggregateKey]:
        """One event at a time, to find the one that fails and stop before it."""
        touched = set()
        for record in records:
            position = self._position_of(record)
            try:
                touched |= await self.store.apply([record], await self._checkpoint(position))
            except ProjectionFailed as error:
                await self.store.apply([], await self._checkpoint(position - 1))
                raise ProjectionFault(position, str(error)) from error
        await self.store.apply([], last)
        return touched

    def _position_of(self, record: bytes) -> int:
        try:
            return RecordedEvent.FromString(record).position
        except DecodeError as error:
            raise ProjectionFault(self.position + 1, "The copy of the log is damaged") from error

    async def _checkpoint(self, position: int) -> ProjectionCheckpoint:
        digest = await self._log.digest_at(position)
        assert digest is not None  # noqa: S101  # the record was read from there
        return ProjectionCheckpoint(position, digest)
