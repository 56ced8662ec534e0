"""Trying again, where that is safe and can help, for as long as the caller has."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import grpc

from shared.client.errors import error_of

MIN_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0

NOT_NOW = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        # Cut off by a service that is stopping; what the caller cancels is another exception.
        grpc.StatusCode.CANCELLED,
    }
)
OUTCOME_UNKNOWN = NOT_NOW | {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}
"""For what has one effect however often it is sent."""

Answer = TypeVar("Answer")


class Backoff:
    """Delays that grow to a second and are never those of all clients at once."""

    def __init__(self) -> None:
        self._next = MIN_BACKOFF_S

    def reset(self) -> None:
        """Begins anew, since something has succeeded."""
        self._next = MIN_BACKOFF_S

    def delay(self, retry_after: float | None) -> float:
        """Seconds to the next attempt: at least those that the service asked for."""
        delay, self._next = self._next, min(2 * self._next, MAX_BACKOFF_S)
        return max(delay, retry_after or 0.0) * random.uniform(1.0, 1.5)  # noqa: S311  # no secret


async def retried(
    attempt: Callable[[float], Awaitable[Answer]],
    timeout_s: float,
    codes: Collection[grpc.StatusCode],
) -> Answer:
    """The answer of the first attempt that has one.

    Args:
        attempt: makes a call with the seconds that are left.
        timeout_s: for all attempts together.
        codes: after which to try again.

    Raises:
        TidemarkError: that of the last attempt, when there is no time for another.
    """
    deadline = time.monotonic() + timeout_s
    backoff = Backoff()
    while True:
        try:
            return await attempt(deadline - time.monotonic())
        except grpc.aio.AioRpcError as error:
            failure = error_of(error)
            delay = backoff.delay(failure.retry_after)
            if error.code() not in codes or time.monotonic() + delay >= deadline:
                raise failure from error
        await asyncio.sleep(delay)
