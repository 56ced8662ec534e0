"""Load that is not measured itself, beside what is."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.driving import load_process
from benchmarks.orders import Order, Window

LONGEST_S = 3600.0


@asynccontextmanager
async def background(order: Order) -> AsyncIterator[None]:
    """Has a load process make its calls until this is left."""
    async with load_process(order.program) as load:
        await load.obey(order)
        begin = time.monotonic()
        await load.begin(Window(begin, begin + LONGEST_S))
        yield
        load.check()
