"""Carries out what the log says: whoever is erased there has no key any more.

The executor destroys a key before it answers. This is for what it could not: it was killed in
between, its disk was full, or an older key store was put back.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from command_service.keys.store import KeyCheckpoint, KeyStore
from shared.aggregates.aggregate import Aggregate
from shared.errors import DataLoss, Exhausted, Unavailable
from shared.log.log import EventFilter, EventLog
from shared.outage import Outage
from shared.personal.fields import erased_by, erasing_events

EVERY_S = 1.0
"""Between two looks at a log that grows: what is found then was late anyway."""

KEPT_EVERY = 10_000
"""Positions from one checkpoint in the key store to the next."""


class Erasures:
    """Follows a log.

    Args:
        log: where it is said who is erased.
        aggregates: the kinds that are in it.
        keys: what is destroyed.
    """

    def __init__(self, log: EventLog, aggregates: Sequence[Aggregate[Any]], keys: KeyStore) -> None:
        self._log = log
        self._keys = keys
        self._filter = EventFilter(event_types=erasing_events(aggregates))
        self._position: int | None = None
        self._kept_position = 0
        self._outage = Outage("erasures_delayed")

    async def catch_up(self) -> None:
        """Carries out everything up to the head of the log.

        Raises:
            TidemarkError: the log or the key store does not answer.
        """
        if not self._filter.event_types:
            return
        if self._position is None:
            self._position = self._kept_position = await self._start()
        head = await self._log.newest()
        while self._position < head.position:
            page = await self._log.read(self._position, event_filter=self._filter)
            if erased := set(map(erased_by, page.records)):
                await self._keys.destroy(erased)
            if page.position >= self._kept_position + KEPT_EVERY:
                await self._keys.reach(KeyCheckpoint(page.position, page.digest))
                self._kept_position = page.position
            self._position = page.position

    async def look(self) -> None:
        """The same, or the operator is told why it has to be tried again.

        Raises:
            OutcomeUnknown: the process has to end.
        """
        try:
            await self.catch_up()
            self._outage.succeeded()
        except (DataLoss, Exhausted, Unavailable) as error:
            self._outage.failed(error.reason, exc_info=error)

    async def run(self) -> None:
        """Looks again and again until cancelled.

        Raises:
            OutcomeUnknown: the process has to end.
        """
        while self._filter.event_types:
            await self._log.wait(self._position or 0)
            await asyncio.sleep(EVERY_S)
            await self.look()

    async def _start(self) -> int:
        """How far the key store has come with this log; another one is gone through from 0."""
        have = await self._keys.checkpoint()
        await self._log.newest()
        is_of_this_log = await self._log.digest_at(have.position) == have.digest
        return have.position if is_of_this_log else 0
