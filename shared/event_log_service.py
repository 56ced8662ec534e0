"""EventLogService over any log: stored history and live events are one loop."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import nan
from typing import Any

from shared.aggregates.aggregate import Aggregate
from shared.call import Call
from shared.checks import (
    MAX_ID_BYTES,
    at_least,
    between,
    check,
    id_violations,
    microseconds,
)
from shared.errors import DataLoss, OutOfRange, Unavailable, invalid_field
from shared.log.log import (
    EVERYTHING,
    MAX_PAGE_EVENTS,
    EventFilter,
    EventLog,
    Head,
    Page,
    timestamp_of,
)
from shared.telemetry.metrics import SUBSCRIBER_LAG_EVENTS, SUBSCRIBERS
from tidemark.internal.v1.stored_pb2 import StoredSubscribeResponse
from tidemark.v1.event_pb2 import Checkpoint, SubscribeRequest

HEARTBEAT_S = 2.0
"""The longest silence of a healthy stream."""

SHARE_S = 0.0002
"""Between two looks of a live stream there is so much time for each open stream, about twice what
a look and a response take: all of them together leave half of the event loop to others."""

MAX_INTERVAL_S = 1.0

DEFAULT_BATCH_EVENTS = 512
MAX_FILTER_VALUES = 1000
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Origin:
    """The head of the command service's log as last heard of, and when, in microseconds."""

    head_position: int
    heard_at: int


class EventLogService:
    """Serves a log.

    Args:
        log: the log.
        aggregates: those whose events are in it.
        origin: what is known of the log that this one is a copy of; None: this is the original.
    """

    def __init__(
        self,
        log: EventLog,
        aggregates: Iterable[Aggregate[Any]],
        origin: Callable[[], Origin] | None = None,
    ) -> None:
        self._log = log
        self._aggregate_types = {aggregate.name for aggregate in aggregates}
        self._event_types = frozenset().union(*(each.event_types for each in aggregates))
        self._origin = origin
        self._subscriptions: set[_Subscription] = set()

    async def subscribe(self, request: SubscribeRequest, call: Call) -> None:
        """Streams the log from the start that the request names."""
        event_filter = self._filter(request, call)
        # What another writer has acknowledged is not beyond the head.
        await self._log.newest()
        subscription = _Subscription(
            self._log, event_filter, request, call, self._checkpoint, self._interval
        )
        start = await self._start(request)
        self._subscriptions.add(subscription)
        try:
            await subscription.run(start)
        finally:
            self._subscriptions.discard(subscription)

    def look(self) -> None:
        """Sets the gauges of subscribers."""
        head = self._log.head.position
        whole = sum(each.reads_everything for each in self._subscriptions)
        SUBSCRIBERS.labels("everything").set(whole)
        SUBSCRIBERS.labels("selection").set(len(self._subscriptions) - whole)
        lags = (max(0, head - each.position) for each in self._subscriptions)
        SUBSCRIBER_LAG_EVENTS.set(max(lags, default=nan))

    def _interval(self) -> float:
        """The least time between two looks of a live stream, in seconds."""
        return min(len(self._subscriptions) * SHARE_S, MAX_INTERVAL_S)

    async def _start(self, request: SubscribeRequest) -> int:
        """The position after which the stream starts, but for `from_time`."""
        head = self._log.head
        if request.WhichOneof("start") == "from_head":
            return head.position
        after = request.after_position
        if after > head.position:
            message = f"Position {after} is beyond the head, {head.position}"
            if self._origin is not None:
                raise Unavailable("LOG_BEHIND", message, head_position=head.position)
            raise OutOfRange("POSITION_BEYOND_HEAD", message, head_position=head.position)
        if request.after_digest and request.after_digest != await self._log.digest_at(after):
            raise DataLoss("LOG_DIVERGED", f"This is not the log that was read up to {after}")
        return after

    def _filter(self, request: SubscribeRequest, call: Call) -> EventFilter:
        tenant_id = call.tenant_id_or_every
        check(request, at_least("after_position", 0), between("max_batch_size", 0, MAX_PAGE_EVENTS))
        if request.after_digest:
            if request.WhichOneof("start") != "after_position":
                raise invalid_field("after_digest", "goes with after_position")
            if len(request.after_digest) != DIGEST_BYTES:
                raise invalid_field("after_digest", f"must have {DIGEST_BYTES} bytes")
        conditions: dict[str, frozenset[str]] = {}
        for name in ("event_types", "aggregate_types", "aggregate_ids", "correlation_ids"):
            values = getattr(request.filter, name)
            if len(values) > MAX_FILTER_VALUES:
                raise invalid_field(f"filter.{name}", f"at most {MAX_FILTER_VALUES}")
            conditions[name] = frozenset(values)
        self._check_values("event_types", conditions, lambda value: value in self._event_types)
        self._check_values(
            "aggregate_types", conditions, lambda value: value in self._aggregate_types
        )
        for name in ("aggregate_ids", "correlation_ids"):
            self._check_values(
                name, conditions, lambda value: value != "" and not id_violations("", value)
            )
        return EventFilter(tenant_id, **conditions)

    def _check_values(
        self, name: str, conditions: dict[str, frozenset[str]], is_right: Callable[[str], bool]
    ) -> None:
        for value in sorted(conditions[name]):
            if not is_right(value):
                raise invalid_field(f"filter.{name}", f"unknown: {value[:MAX_ID_BYTES]!r}")

    def _checkpoint(self, position: int, digest: bytes) -> Checkpoint:
        head = self._log.head
        if self._origin is None:
            origin = Origin(head.position, time.time_ns() // 1000)
        else:
            origin = self._origin()
        return Checkpoint(
            position=position,
            head_position=head.position,
            head_time=timestamp_of(head.time) if head.position else None,
            digest=digest,
            origin_head_position=max(origin.head_position, head.position),
            origin_heard_at=timestamp_of(origin.heard_at) if origin.heard_at else None,
        )


class _Subscription:
    """One stream."""

    def __init__(
        self,
        log: EventLog,
        event_filter: EventFilter,
        request: SubscribeRequest,
        call: Call,
        checkpoint: Callable[[int, bytes], Checkpoint],
        interval: Callable[[], float],
    ) -> None:
        self._log = log
        self._filter = event_filter
        self._limit = request.max_batch_size or DEFAULT_BATCH_EVENTS
        self._stop_at = log.head.position if request.stop_at_head else None
        self._not_before: int | None = None
        if request.WhichOneof("start") == "from_time":
            moment = microseconds("from_time", request.from_time)
            self._not_before = moment + (request.from_time.nanos % 1000 > 0)
        self._call = call
        self._checkpoint = checkpoint
        self._interval = interval
        self._sent_at = float("-inf")
        self._looked_at = float("-inf")
        self.position = 0
        """Everything up to here was sent, or filtered out."""

    @property
    def reads_everything(self) -> bool:
        """Whether it is the whole log that is read, as replicas do."""
        return self._filter == EVERYTHING

    async def run(self, after: int) -> None:
        """Streams what follows a position."""
        self.position = after
        is_told = False
        while True:
            head = self._log.head
            page = await self._page(after, head)
            self._looked_at = time.monotonic()
            after = page.position
            is_at_end = after >= (head.position if self._stop_at is None else self._stop_at)
            # A stream whose filter selects little is told now and then how far it has come.
            if page.records or (is_at_end and not is_told) or self._is_due():
                await self._send(page)
                is_told = is_at_end
            else:
                # What is read from memory lets nobody else run.
                await asyncio.sleep(0)
            self.position = after
            if is_at_end and self._stop_at is not None:
                return
            if is_at_end:
                await self._wait(after)

    async def _page(self, after: int, head: Head) -> Page:
        if self._not_before is not None:
            if head.time < self._not_before and self._stop_at is None:
                return Page([], head.position, head.digest)
            # The store may already have more than what is known to be durable.
            after = min(await self._log.position_at(self._not_before - 1), head.position)
            self._not_before = None
        if self._stop_at is None:
            return await self._log.read(after, self._limit, self._filter)
        until = max(after, self._stop_at)
        return await self._log.read(after, self._limit, self._filter, until)

    async def _wait(self, after: int) -> None:
        try:
            async with asyncio.timeout(self._sent_at + HEARTBEAT_S - time.monotonic()):
                await self._log.wait(after)
        except TimeoutError:
            # A heartbeat is due, which is what it looks at next.
            return
        # Whoever follows everything is a replica, which others wait for.
        if not self.reads_everything:
            await asyncio.sleep(self._looked_at + self._interval() - time.monotonic())

    def _is_due(self) -> bool:
        return time.monotonic() - self._sent_at >= HEARTBEAT_S

    async def _send(self, page: Page) -> None:
        # Who does not see the whole log has nothing to compare its digest with.
        digest = page.digest if self.reads_everything else b""
        checkpoint = self._checkpoint(page.position, digest)
        await self._call.send(StoredSubscribeResponse(events=page.records, checkpoint=checkpoint))
        self._sent_at = time.monotonic()
