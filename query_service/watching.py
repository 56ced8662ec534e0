"""Watching one aggregate: its state now, and again after changes, the newest only."""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from query_service.past import not_found
from query_service.projector import Projector
from shared.event_log_service import HEARTBEAT_S
from shared.log.log import AggregateKey
from shared.rpc import Call

State = TypeVar("State", bound=Message)


async def watch(
    projector: Projector,
    call: Call,
    key: AggregateKey,
    min_position: int,
    read: Callable[[sqlite3.Connection, AggregateKey], State | None],
    response: Callable[[State, int], Message],
    *,
    is_last: Callable[[State], bool] = lambda _state: False,
) -> None:
    """Sends the state, then again after changes and with each heartbeat.

    Between two states it waits for the peer to take the first, so a slow one gets the newest.

    Args:
        projector: of the projection that has the state.
        call: where to.
        key: of the aggregate.
        min_position: where the projection has to be for the first.
        read: finds the state, in a transaction.
        response: makes what is sent of the state and its position.
        is_last: whether the state is one that nothing follows; it is not begun with.

    Raises:
        NotFound: there is none, or its end is past.
    """
    sent: Any = None
    with projector.watching(key) as changed:
        while True:
            changed.clear()
            state, position = await projector.query(call, min_position, read, key)
            if state is None or (sent is None and is_last(state)):
                raise not_found(projector.projection.aggregate)
            await call.send(response(state, position))
            sent = state
            if is_last(state):
                return
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await changed.wait()
            except TimeoutError:
                continue
