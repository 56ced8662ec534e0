"""The two queries on one aggregate that every kind has: getting it, and watching it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from query_service.past import Past, check_moment, not_found
from query_service.projector import Projector
from shared.call import Call
from shared.checks import at_least, check, identifier
from shared.event_log_service import HEARTBEAT_S
from shared.log.log import AggregateKey


async def get(projector: Projector, past: Past, request: Any, call: Call) -> tuple[Any, int]:
    """The aggregate that a request names, now or as of a moment.

    Args:
        projector: of the projection that has the states of now.
        past: has all others.
        request: with `<aggregate>_id`, as_of and min_position.
        call: whose it is.

    Returns:
        The state, and the position up to which it contains every event.

    Raises:
        TidemarkError: the request is wrong, there was no such aggregate, or it is not known yet.
    """
    key = _key(projector, request, call)
    if request.HasField("as_of"):
        check_moment(request.as_of, "as_of")
        await past.reach(request.min_position, call)
        aggregate = projector.projection.aggregate
        state, position = await past.state_as_of(aggregate, key, request.as_of, call)
    else:
        state, position = await get_now(projector, key, request, call)
    await projector.unseal(key.tenant_id, [state])
    return state, position


async def get_now(
    projector: Projector, key: AggregateKey, request: Any, call: Call
) -> tuple[Any, int]:
    """The same, only now, and by its key; what is personal in it is still encrypted."""
    projection = projector.projection
    stored, position = await projector.state(call, request.min_position, key)
    if stored is not None:
        state = projection.aggregate.state.FromString(stored)
        if not projection.is_deleted(state):
            return state, position
    raise not_found(projection.aggregate)


async def watch(
    projector: Projector,
    request: Any,
    call: Call,
    response: Callable[..., Message],
) -> None:
    """Sends the state of an aggregate, then again after changes and with each heartbeat.

    Before it looks for the next state it waits for the peer to take the last one, so a slow peer
    gets the newest.

    Args:
        projector: of the projection that has the state.
        request: with `<aggregate>_id` and min_position.
        call: where to.
        response: the message to send, with fields `<aggregate>` and position.

    Raises:
        TidemarkError: the request is wrong, or there is no such aggregate.
    """
    key = _key(projector, request, call)
    projection = projector.projection
    aggregate = projection.aggregate
    sent: bytes | None = None
    is_heartbeat_due = False
    next_heartbeat = time.monotonic() + HEARTBEAT_S
    with projector.watching(key) as changed:
        while True:
            changed.clear()
            stored, position = await projector.state(call, request.min_position, key)
            if stored is None:
                raise not_found(aggregate)
            if stored != sent or is_heartbeat_due:
                state = aggregate.state.FromString(stored)
                is_last = projection.is_deleted(state)
                if is_last and sent is None:
                    raise not_found(aggregate)
                await projector.unseal(key.tenant_id, [state])
                await call.send(response(**{aggregate.name: state, "position": position}))
                if is_last:
                    return
                sent = stored
                next_heartbeat = time.monotonic() + HEARTBEAT_S
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
