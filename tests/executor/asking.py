"""Asking an executor, with no more patience than a test should have."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from google.protobuf.message import Message

from command_service.calls import Answer, CommandStream
from command_service.command import Command
from command_service.executor import Executor
from command_service.keys.store import KeyStore
from shared.errors import TidemarkError
from shared.log.log import EventLog
from tests.executor.commands import command
from tests.keys.memory import MemoryKeys
from tidemark.v1.command_pb2 import CommandReceipt

PATIENCE_S = 10.0
"""Never used up, unless something hangs."""

KEYS = MemoryKeys()
"""Of all executors in tests that are not about keys, as they are one for all writers of a log."""

T = TypeVar("T")


async def within(awaitable: Awaitable[T]) -> T:
    """Raises `TimeoutError` rather than wait for ever."""
    return await asyncio.wait_for(awaitable, PATIENCE_S)


async def turns() -> None:
    """Whatever can go on without a log that is held, has gone on. No time has to pass for it."""
    for _ in range(100):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(
    log: EventLog,
    keys: KeyStore = KEYS,
    *,
    max_in_flight: int = 16_384,
    max_per_tenant: int = 4_096,
    max_cached: int = 20_000,
    snapshot_every: int = 100,
) -> AsyncIterator[Executor]:
    """An executor that executes, and at the end has answered everything."""
    executor = Executor(
        log,
        keys,
        max_in_flight=max_in_flight,
        max_per_tenant=max_per_tenant,
        max_cached=max_cached,
        snapshot_every=snapshot_every,
    )
    executing = asyncio.create_task(executor.run())
    try:
        yield executor
        await within(executor.drain())
    finally:
        executing.cancel()
        with suppress(asyncio.CancelledError):
            await executing


class Asked:
    """A command that was submitted."""

    def __init__(self, answers: asyncio.Future[list[Answer]]) -> None:
        self._answers = answers

    @property
    def is_answered(self) -> bool:
        return self._answers.done()

    def hang_up(self) -> None:
        self._answers.cancel()

    async def answer(self) -> Answer:
        [answer] = await within(asyncio.shield(self._answers))
        return answer

    async def receipt(self) -> CommandReceipt:
        answer = await self.answer()
        assert isinstance(answer, CommandReceipt), answer
        return answer

    async def error(self) -> TidemarkError:
        answer = await self.answer()
        assert isinstance(answer, TidemarkError), answer
        return answer

    async def reason(self) -> str:
        return (await self.error()).reason


def ask(executor: Executor, asked: Command | Message, stream: CommandStream | None = None) -> Asked:
    """Submits a command; a bare message is one without a context."""
    asked = asked if isinstance(asked, Command) else command(asked)
    return Asked(executor.submit([asked], stream))


async def done(executor: Executor, *asked: Command | Message) -> list[CommandReceipt]:
    """Submits commands one by one, each when the one before has its receipt."""
    return [await ask(executor, each).receipt() for each in asked]
