"""Commands without a pause."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from tests.services.caller import Caller
from tests.services.deployment import Deployment
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser


@asynccontextmanager
async def load(own: Deployment) -> AsyncIterator[Caller]:
    """Commands all the while, many at once; ends when they are answered."""
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(CreateUser(user_id="ada", username="Ada"))
    is_over = False

    async def go_on() -> None:
        for number in count():
            if is_over:
                return
            await caller.do(
                CreateUser(user_id=f"user-{number}", username="Bob"),
                *[ChangeUserBalance(user_id="ada", balance_change=1)] * 200,
            )

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_on())
        try:
            yield caller
        finally:
            is_over = True
