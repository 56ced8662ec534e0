"""The past of an aggregate, read from the copy of the log and folded as the write side folds it."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from query_service.projector import Projector
from query_service.states import KEPT_EVERY, KeptState
from query_service.waiting import patience
from shared.aggregates.aggregate import Aggregate, CorruptHistory
from shared.call import Call
from shared.checks import microseconds
from shared.errors import DataLoss, NotFound, TidemarkError, Unavailable, invalid_field
from shared.log.log import MAX_PAGE_EVENTS, AggregateKey, EventLog
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.query_pb2 import AsOf

ARRIVAL_S = 0.5
"""Given to an aggregate of which nothing is known yet."""

MAX_VERSION = 2**63 - 1


class Moment(NamedTuple):
    """Up to where: both bounds are included."""

    position: int
    version: int | None = None

    @property
    def last_version(self) -> int:
        """The version, or more than there can be."""
        return MAX_VERSION if self.version is None else self.version

    def at_most(self, version: int) -> "Moment":
        """The same, or the version if that is earlier."""
        return Moment(self.position, min(version, self.last_version))


class Past:
    """Answers what was.

    Args:
        log: has every event.
        projectors: may have kept states, from which a fold can begin instead of the first event.
    """

    def __init__(self, log: EventLog, projectors: Sequence[Projector]) -> None:
        self._log = log
        self._projectors = {each.projection.aggregate.name: each for each in projectors}

    async def reach(self, position: int, call: Call) -> None:
        """Waits until the copy of the log has come this far.

        Raises:
            Unavailable: PROJECTION_BEHIND: not in time.
        """
        if self._log.head.position < position:
            async with patience(call, f"position {position}"):
                await self._log.wait(position - 1)

    async def moment(self, as_of: AsOf, key: AggregateKey, call: Call) -> Moment:
        """The moment that a request names, once the copy of the log has come that far.

        Raises:
            Unavailable: PROJECTION_BEHIND: not in time.
        """
        match as_of.WhichOneof("moment"):
            case "time":
                time = microseconds("time", as_of.time)
                head = self._log.head
                return Moment(
                    head.position if time >= head.time else await self._log.position_at(time)
                )
            case "position":
                await self.reach(as_of.position, call)
                return Moment(as_of.position)
            case _:
                await self._reach_version(key, as_of.version, call)
                return Moment(self._log.head.position, as_of.version)

    async def state_as_of(
        self, aggregate: Aggregate[Any], key: AggregateKey, as_of: AsOf, call: Call
    ) -> tuple[Any, int]:
        """The state at the moment that a request names, and the position that it is true of.

        Raises:
            NotFound: it did not exist then.
            Unavailable: PROJECTION_BEHIND: the copy of the log did not come that far in time.
        """
        if as_of.WhichOneof("moment") == "version":
            # Most often it is there, and to look whether it is would be to read it twice.
            moment = Moment(self._log.head.position, as_of.version)
            with suppress(NotFound):
                state, position = await self.state(aggregate, key, moment)
                if state.version == as_of.version:
                    return state, position
        return await self.state(aggregate, key, await self.moment(as_of, key, call))

    async def state(
        self, aggregate: Aggregate[Any], key: AggregateKey, moment: Moment
    ) -> tuple[Any, int]:
        """The state at a moment, and the position up to which it contains every event.

        Raises:
            NotFound: it did not exist then.
        """
        state, position = await self.kept_state(aggregate, key, moment)
        async for event in self.events(key, moment, state.version if state else 0):
            state = folded(aggregate, state, event)
            position = event.position
        if state is None:
            raise not_found(aggregate)
        return state, moment.position if moment.version is None else position

    async def kept_state(
        self, aggregate: Aggregate[Any], key: AggregateKey, moment: Moment
    ) -> tuple[Any, int]:
        """The newest state that a projection has kept from up to a moment, and its position.

        It saves a fold the events up to there. Without one, None and 0.
        """
        kept: KeptState | None = None
        if moment.last_version >= KEPT_EVERY:
            with suppress(TidemarkError):
                kept = await self._projectors[aggregate.name].kept_state(key, *moment)
        if kept is None:
            return None, 0
        return aggregate.state.FromString(kept.state), kept.position

    async def events(
        self, key: AggregateKey, moment: Moment, after_version: int = 0
    ) -> AsyncIterator[RecordedEvent]:
        """The aggregate's events up to a moment, oldest first."""
        version = after_version
        # Often all that is missing after a kept state.
        page_size = KEPT_EVERY
        while (limit := min(page_size, moment.last_version - version)) > 0:
            records = await self._log.read_aggregate(key, version, limit=limit)
            for record in records:
                event = _parsed(record)
                if event.position > moment.position:
                    return
                yield event
                version = event.version
            if len(records) < limit:
                return
            page_size = MAX_PAGE_EVENTS

    async def events_newest_first(
        self, key: AggregateKey, version: int, page_size: int
    ) -> AsyncGenerator[RecordedEvent, None]:
        """The aggregate's events up to a version that it has reached, newest first."""
        while version > 0:
            limit = min(page_size, version, MAX_PAGE_EVENTS)
            records = await self._log.read_aggregate(key, version - limit, limit=limit)
            for record in reversed(records):
                yield _parsed(record)
            version -= limit

    async def exists(self, key: AggregateKey, moment: Moment) -> bool:
        """Whether the aggregate had a history at a moment."""
        first = await self._log.read_aggregate(key, limit=min(1, moment.last_version))
        return any(_parsed(record).position <= moment.position for record in first)

    async def _reach_version(self, key: AggregateKey, version: int, call: Call) -> None:
        if version == 0 or await self._log.read_aggregate(key, version - 1, limit=1):
            return
        if not await self._is_known_soon(key, call):
            return
        async with patience(call, f"version {version}"):
            while True:
                head = self._log.head
                if await self._log.read_aggregate(key, version - 1, limit=1):
                    return
                await self._log.wait(head.position)

    async def _is_known_soon(self, key: AggregateKey, call: Call) -> bool:
        """Whether the aggregate has a history, or gets one in a moment.

        One that was just created is not here yet; one that never was would be waited for in vain.
        """
        with suppress(Unavailable):
            async with patience(call, "the aggregate", at_most=ARRIVAL_S):
                while True:
                    head = self._log.head
                    if await self._log.read_aggregate(key, limit=1):
                        return True
                    await self._log.wait(head.position)
        return False


def check_moment(as_of: AsOf, field: str) -> None:
    """Checks the shape of a moment.

    Raises:
        InvalidFields: it is none in any state.
    """
    match as_of.WhichOneof("moment"):
        case "time":
            microseconds(f"{field}.time", as_of.time)
        case None:
            raise invalid_field(field, "must name a moment")
        case name if getattr(as_of, name) < 0:
            raise invalid_field(f"{field}.{name}", "must not be negative")


def folded(aggregate: Aggregate[Any], state: Any, event: RecordedEvent) -> Any:
    """The state after the next event; one of an unknown type only moves the version on.

    Raises:
        DataLoss: LOG_CORRUPT: the event cannot follow.
    """
    try:
        return aggregate.fold_known(state, event, aggregate.unpack_known(event))
    except CorruptHistory as error:
        raise DataLoss("LOG_CORRUPT", "The aggregate's history is damaged") from error


def _parsed(record: bytes) -> RecordedEvent:
    try:
        return RecordedEvent.FromString(record)
    except DecodeError as error:
        raise DataLoss("LOG_CORRUPT", "The aggregate's history is damaged") from error


def not_found(aggregate: Aggregate[Any]) -> NotFound:
    """The answer for an aggregate that does not exist, or did not."""
    return NotFound(f"{aggregate.name.upper()}_NOT_FOUND", f"There is no such {aggregate.name}")
