"""Telling any number of tasks that something has changed."""

import asyncio


class Changes:
    """Look at what may change first; then, without awaiting in between, wait for the next one."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def notify(self) -> None:
        """Wakes everyone who waits now."""
        changed, self._next = self._next, asyncio.Event()
        changed.set()

    async def next(self) -> None:
        """Returns at the next change."""
        await self._next.wait()
