"""The two queries on one aggregate that every kind has: getting it, and watching it."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from query_service.past import Past, check_moment, not_found
from query_service.projector import Projector
from shared.checks import at_least, check, identifier
from shared.event_log_service import HEARTBEAT_S
from shared.log.log import AggregateKey
from shared.rpc import Call

State = TypeVar("State", bound=Message)

Read = Callable[[sqlite3.Connection, AggregateKey], State | None]
"""Finds a state in the projection's tables; runs in a transaction, in a thread of its own."""


async def get(
    projector: Projector, past: Past, request: Any, call: Call, read: Read[State]
) -> tuple[State, int]:
    """The aggregate that a request names, now or as of a moment.

    Args:
        projector: of the projection that has the states of now.
        past: has all others.
        request: with `<aggregate>_id`, as_of and min_position.
        call: whose it is.
        read: finds the state of now.

    Returns:
        The state, and the position up to which it contains every event.

    Raises:
        TidemarkError: the request is wrong, there was no such aggregate, or it is not known yet.
    """
    key = _key(projector, request, call)
    aggregate = projector.projection.aggregate
    if request.HasField("as_of"):
        check_moment(request.as_of, "as_of")
        await past.reach(request.min_position, call)
        moment = await past.moment(request.as_of, key, call)
        return await past.state(aggregate, key, moment)
    state, position = await projector.query(call, request.min_position, read, key)
    if state is None:
        raise not_found(aggregate)
    return state, position


async def watch(
    projector: Projector,
    request: Any,
    call: Call,
    read: Read[State],
    response: Callable[..., Message],
    *,
    is_last: Callable[[State], bool] = lambda _state: False,
) -> None:
    """Sends the state of an aggregate, then again after changes and with each heartbeat.

    Before it looks for the next state it waits for the peer to take the last one, so a slow peer
    gets the newest.

    Args:
        projector: of the projection that has the state.
        request: with `<aggregate>_id` and min_position.
        call: where to.
        read: finds the state.
        response: the message to send, with fields `<aggregate>` and position.
        is_last: whether nothing follows the state; such a one is not begun with.

    Raises:
        TidemarkError: the request is wrong, or there is no such aggregate.
    """
    key = _key(projector, request, call)
    aggregate = projector.projection.aggregate
    sent: State | None = None
    is_heartbeat_due = False
    next_heartbeat = time.monotonic() + HEARTBEAT_S
    with projector.watching(key) as changed:
        while True:
            changed.clear()
            state, position = await projector.query(call, request.min_position, read, key)
            if state is None or (sent is None and is_last(state)):
                raise not_found(aggregate)
            if state != sent or is_heartbeat_due:
                await call.send(response(**{aggregate.name: state, "position": position}))
                sent = state
                next_heartbeat = time.monotonic() + HEARTBEAT_S
            if is_last(state):
                return
            try:
                async with asyncio.timeout(next_heartbeat - time.monotonic()):
                    await changed.wait()
                is_heartbeat_due = False
            except TimeoutError:
                is_heartbeat_due = True


def _key(projector: Projector, request: Any, call: Call) -> AggregateKey:
    aggregate = projector.projection.aggregate
    tenant_id = call.tenant_id
    check(request, identifier(aggregate.id_field), at_least("min_position", 0))
    return AggregateKey(tenant_id, aggregate.name, getattr(request, aggregate.id_field))
