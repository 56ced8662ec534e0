"""The reference for unary calls."""

from benchmarks.driving import under_load
from benchmarks.empty_server import UNARY
from benchmarks.orders import Order, Requests
from benchmarks.scenario import Side
from benchmarks.stage import Stage


async def empty_calls(stage: Stage, callers: int) -> Side:
    """Empty calls to a server that does nothing, from as many callers."""
    server = await stage.start_empty_server()
    order = Order(server.address, UNARY, Requests([b""], is_cyclic=True), callers)
    return Side("empty call", lambda: under_load([order], [server], stage.conditions))
