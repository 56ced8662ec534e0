"""Looking for cycles by time.

gRPC leaves one behind of each call that it refuses itself, with everything in its headers, which
is as much as a peer cares to send. By number alone, of which a service allows many, the collector
would find them only after gigabytes. Those that are young are found in about a millisecond.
"""

import asyncio
import gc
import itertools

INTERVAL_S = 0.25
OLDER_EVERY = 20
"""So often are those looked at as well that were in use the last time."""


async def collect_garbage() -> None:
    """Does so until cancelled."""
    for number in itertools.count(1):
        await asyncio.sleep(INTERVAL_S)
        gc.collect(1 if number % OLDER_EVERY == 0 else 0)
