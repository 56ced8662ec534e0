"""How long a query waits for what it asks for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf

from shared.call import Call
from shared.errors import Unavailable

MAX_WAIT_S = 10.0
"""For a caller without a deadline."""

ANSWER_MARGIN_S = 0.05
"""Kept of a deadline, to tell the caller rather than let it expire."""


@asynccontextmanager
async def patience(call: Call, awaited: str, at_most: float = inf) -> AsyncIterator[None]:
    """Bounds a wait.

    Raises:
        Unavailable: PROJECTION_BEHIND: what is awaited did not come in time.
    """
    remaining = call.time_remaining
    seconds = MAX_WAIT_S if remaining is None else max(remaining - ANSWER_MARGIN_S, 0.0)
    try:
        async with asyncio.timeout(min(seconds, at_most)):
            yield
    except TimeoutError as error:
        raise Unavailable("PROJECTION_BEHIND", f"Not reached yet: {awaited}") from error
