"""Hearing of what other processes commit: by notification, and by looking, in case one is lost."""

import asyncio
import logging
from typing import Any

from shared.errors import TidemarkError
from shared.log.log import Head, HeadSignal
from shared.log.postgres.connecting import (
    CLOSE_S,
    FAILURES,
    Connection,
    Database,
    Preparation,
)
from shared.log.postgres.schema import HEAD
from shared.outage import Outage

LOOK_S = 1.0
"""The longest that a lost notification delays anybody."""

RETRY_S = 0.5


class Listener:
    """Moves the signal with the head of the log, on a connection of its own.

    Args:
        database: where the log is.
        prepare: what a new connection is put through.
        signal: what is moved.
        channel: on which those who commit tell the position that they have come to.
    """

    def __init__(
        self, database: Database, prepare: Preparation, signal: HeadSignal, channel: str
    ) -> None:
        self._database = database
        self._prepare = prepare
        self._signal = signal
        self._channel = channel
        self._is_told = asyncio.Event()
        self._outage = Outage("listening_interrupted")

    async def run(self) -> None:
        """Listens until cancelled, on one connection after the other."""
        while True:
            try:
                connection = await self._database.connect(self._prepare)
                try:
                    await self._listen(connection)
                except FAILURES:
                    await self._database.renew()
                    raise
                finally:
                    await asyncio.shield(connection.close(timeout=CLOSE_S))
            except (TidemarkError, *FAILURES) as error:
                reason = type(error).__name__
                self._outage.failed(reason, level=logging.WARNING, why=str(error))
            await asyncio.sleep(RETRY_S)

    async def _listen(self, connection: Any) -> None:
        await connection.add_listener(self._channel, self._hear)
        # What happens while nobody listens is seen by looking first.
        connection.add_termination_listener(lambda _: self._is_told.set())
        while True:
            self._is_told.clear()
            await self._look(connection)
            self._outage.succeeded()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._is_told.wait()
            except TimeoutError:
                continue

    def _hear(self, _: Any, __: int, ___: str, position: object) -> None:
        # Not of what this process has committed itself.
        if int(str(position)) > self._signal.head.position:
            self._is_told.set()

    async def _look(self, connection: Connection) -> None:
        async with asyncio.timeout(CLOSE_S):
            row = await connection.fetchrow(HEAD)
        head = Head(*row or ())
        if head.position > self._signal.head.position:
            self._signal.move(head)
