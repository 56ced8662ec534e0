"""Callers that are gone before they were answered."""

import asyncio
import gc
from typing import Any, cast

import grpc

from shared.call import Call, ServicerContext
from shared.drain import Drain
from tidemark.v1.event_pb2 import SubscribeResponse


class Gone:
    """gRPC's side of a call whose caller hangs up while the headers are on their way."""

    def __init__(self) -> None:
        self.is_gone = asyncio.Event()

    async def send_initial_metadata(self, _metadata: object) -> None:
        await self.is_gone.wait()
        raise grpc.aio.InternalError


async def test_a_caller_that_hangs_up_during_the_headers_leaves_no_forgotten_task() -> None:
    forgotten: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: forgotten.append(context))
    context = Gone()
    call = Call(cast("ServicerContext", context), Drain())
    sending = asyncio.create_task(call.send(SubscribeResponse()))
    await asyncio.sleep(0)

    sending.cancel()
    await asyncio.wait([sending])
    context.is_gone.set()
    # The headers fail with the next steps of the loop.
    for _ in range(3):
        await asyncio.sleep(0)
    del call, sending
    gc.collect()

    assert forgotten == []
