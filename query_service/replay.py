"""ReplayService: one aggregate's history, event by event."""

from collections.abc import Iterable
from typing import Any

from query_service.past import Moment, Past, check_moment, folded, not_found
from query_service.unsealing import Unsealing
from shared.aggregates.aggregate import Aggregate, pack
from shared.call import Call
from shared.checks import at_least, check, identifier
from shared.errors import Exhausted, invalid_field
from shared.log.log import AggregateKey, EventLog
from tidemark.v1.query_pb2 import ReplayRequest, ReplayResponse


class Replay:
    """Replays aggregates of the kinds given.

    Args:
        log: has their events.
        past: folds them.
        unsealing: makes readable what is personal in them.
        aggregates: the kinds.
        max_events: that one call sends.
    """

    def __init__(
        self,
        log: EventLog,
        past: Past,
        unsealing: Unsealing,
        aggregates: Iterable[Aggregate[Any]],
        max_events: int,
    ) -> None:
        self._log = log
        self._past = past
        self._unsealing = unsealing
        self._max_events = max_events
        self._aggregates = {aggregate.name: aggregate for aggregate in aggregates}

    async def replay(self, request: ReplayRequest, call: Call) -> None:
        """See the contract."""
        key = AggregateKey(call.tenant_id, request.aggregate_type, request.aggregate_id)
        check(
            request,
            identifier("aggregate_type"),
            identifier("aggregate_id"),
            at_least("after_version", 0),
            at_least("min_position", 0),
        )
        aggregate = self._aggregates.get(request.aggregate_type)
        if aggregate is None:
            known = ", ".join(self._aggregates)
            raise invalid_field("aggregate_type", f"is unknown; there are: {known}")
        if request.HasField("until"):
            check_moment(request.until, "until")
        await self._past.reach(request.min_position, call)
        moment = Moment(self._log.head.position)
        if request.HasField("until"):
            moment = await self._past.moment(request.until, key, call)
        await self._send(request, call, aggregate, key, moment)

    async def _send(
        self,
        request: ReplayRequest,
        call: Call,
        aggregate: Aggregate[Any],
        key: AggregateKey,
        moment: Moment,
    ) -> None:
        if not await self._past.exists(key, moment):
            raise not_found(aggregate)
        state = None
        after = request.after_version
        if request.include_state:
            state, _ = await self._past.kept_state(aggregate, key, moment.at_most(after))
            after = state.version if state else 0
        async for event in self._past.events(key, moment, after):
            if request.include_state:
                state = folded(aggregate, state, event)
            if event.version > request.after_version + self._max_events:
                raise _too_long(self._max_events, event.version - 1)
            if event.version > request.after_version:
                await self._unsealing.event(aggregate, event)
                packed = None
                if state is not None:
                    shown = await self._unsealing.shown(aggregate, key.tenant_id, state)
                    packed = pack(shown)
                await call.send(ReplayResponse(event=event, state=packed))


def _too_long(limit: int, last_version: int) -> Exhausted:
    return Exhausted(
        "REPLAY_TOO_LONG",
        f"One call replays {limit} events: go on with after_version {last_version}",
        limit=limit,
        after_version=last_version,
    )
