"""A load process: `python -m benchmarks.load`.

It reads an order from standard input, connects, says that it is ready, reads the window, makes its
calls from then on until the window ends, and writes its report to standard output.
"""

import asyncio
import os
import sys

import grpc

from benchmarks import usage
from benchmarks.loads import LOADS
from benchmarks.orders import READY, Order, Window, say
from benchmarks.recorder import Recorder


async def obey(order: Order) -> None:
    """Does what it is told, once it is told when."""
    async with grpc.aio.insecure_channel(order.address) as channel:
        await channel.channel_ready()
        say(READY)
        recorder = Recorder(Window.from_json(await asyncio.to_thread(sys.stdin.readline)))
        await LOADS[order.load](channel, order, recorder)
    say(recorder.report(usage.peak_rss_bytes(os.getpid())).to_json())


if __name__ == "__main__":
    asyncio.run(obey(Order.from_json(sys.stdin.readline())))
