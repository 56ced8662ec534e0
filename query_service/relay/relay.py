"""Passing events on: at least once, and those of one aggregate in order.

An event counts as passed on once the target has confirmed it, and only then does the checkpoint
move. So a relay that ends in between sends some events again: whoever receives them knows an event
by its event_id. What the target does not take is sent again, with longer and longer waits, and
nothing after it is sent before; unless it is plain that this one event is why: then it is parked.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

import structlog
from google.protobuf.message import DecodeError

from query_service.relay.progress import Parked, Progress, park
from query_service.relay.target import NotTaken, Target, Unsendable
from shared.errors import DataLoss, Exhausted, Unavailable
from shared.following import follow
from shared.log.log import Head, chain
from shared.outage import Outage
from shared.security.upstream import Upstream
from tidemark.internal.v1.stored_pb2 import StoredSubscribeResponse
from tidemark.v1.event_pb2 import RecordedEvent

MAX_SENT_EVENTS = 100
MAX_SENDING_S = 0.5
"""Then the checkpoint is kept: the most that is sent again by a relay that was killed."""

MAX_REFUSALS = 5
"""In a row, of an event in whose place the target would take another one: then it is parked."""

MIN_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
RETRY_S = 1.0
"""After an error of the machine, such as a full disk."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sent:
    """How many events the target has confirmed, and why not the next one, if it was tried."""

    count: int
    failure: Unsendable | NotTaken | None = None


class Relay:
    """Passes on what another service has in its log.

    Args:
        upstream: a service that serves EventLogService.
        target: what the events are passed on to.
        progress: where it begins.
    """

    def __init__(self, upstream: Upstream, target: Target, progress: Progress) -> None:
        self._upstream = upstream
        self._target = target
        self._progress = progress
        self._not_taken = Outage("not_taken", target=target.address)
        self._not_kept = Outage("checkpoint_not_kept")
        self._stopping = asyncio.Event()
        # The target may block, and wants to be called by one thread.
        self._thread = ThreadPoolExecutor(1, "target")

    async def run(self) -> None:
        """Follows until cancelled; what is being sent then is sent, and the checkpoint kept.

        Raises:
            DataLoss: LOG_DIVERGED: the log is not the one that was passed on up to here.
        """
        try:
            async with aclosing(follow(self._upstream, lambda: self._progress.head)) as responses:
                async for response in responses:
                    await self._undisturbed(response)
        finally:
            await self._call(self._target.close)
            self._thread.shutdown()

    async def _undisturbed(self, response: StoredSubscribeResponse) -> None:
        passing_on = asyncio.create_task(self._pass_on(response), name="pass on")
        try:
            await asyncio.shield(passing_on)
        except asyncio.CancelledError:
            self._stopping.set()
            await passing_on
            raise

    async def _pass_on(self, response: StoredSubscribeResponse) -> None:
        """Sends or parks all events of a response, or as many as there are before the stop."""
        events, heads = _verified(response, self._progress.head)
        refusals = 0
        backoff = MIN_BACKOFF_S
        while events and not self._stopping.is_set():
            sent = await self._call(self._send, events[:MAX_SENT_EVENTS])
            if sent.count:
                self._not_taken.succeeded()
                refusals, backoff = 0, MIN_BACKOFF_S
            if isinstance(sent.failure, NotTaken):
                refusals = await self._refusals(refusals, events[sent.count])
            parked = None
            if isinstance(sent.failure, Unsendable) or refusals == MAX_REFUSALS:
                parked = self._park(events[sent.count], sent.failure)
            if done := sent.count + (parked is not None):
                await self._save(heads[done - 1], parked)
                logger.debug("passed_on", position=self._progress.head.position, count=done)
                events, heads = events[done:], heads[done:]
            if parked:
                refusals = 0
            elif sent.failure:
                position = events[0].position
                self._not_taken.failed(str(sent.failure), level=logging.WARNING, position=position)
                await self._pause(backoff)
                backoff = min(2 * backoff, MAX_BACKOFF_S)

    def _send(self, events: Sequence[RecordedEvent]) -> Sent:
        """In the target's thread."""
        until = time.monotonic() + MAX_SENDING_S
        for count, event in enumerate(events):
            if time.monotonic() >= until:
                return Sent(count)
            try:
                self._target.send(event)
            except (Unsendable, NotTaken) as failure:
                return Sent(count, failure)
        return Sent(len(events))

    async def _refusals(self, before: int, event: RecordedEvent) -> int:
        """How often in a row the event, and nothing but it, was refused."""
        return before + 1 if await self._call(self._target.takes_others, event) else 0

    def _park(self, event: RecordedEvent, why: Exception | None) -> Parked:
        logger.error(
            "parked",
            position=event.position,
            event_id=event.event_id,
            correlation_id=event.correlation_id,
            why=str(why),
            parked=self._progress.parked_count + 1,
            exc_info=why,
        )
        return park(event.position, event.SerializeToString(deterministic=True), str(why))

    async def _save(self, head: Head, parked: Parked | None) -> None:
        """Keeps it, as soon as the machine can; at the stop, if it can."""
        while True:
            try:
                await self._progress.save(head, parked)
            except (Exhausted, Unavailable) as error:
                self._not_kept.failed(error.reason, exc_info=error)
                if self._stopping.is_set():
                    return
                await self._pause(RETRY_S)
            else:
                self._not_kept.succeeded()
                return

    async def _pause(self, seconds: float) -> None:
        """Waits, but not beyond the stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.5, 1.0)):  # noqa: S311  # no secret
                await self._stopping.wait()

    async def _call(self, work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def _verified(
    response: StoredSubscribeResponse, head: Head
) -> tuple[list[RecordedEvent], list[Head]]:
    """The events, and with each how far the log has come with it.

    Raises:
        DataLoss: LOG_DIVERGED: the digest is not that of what was received.
    """
    events = []
    heads = []
    for record in response.events:
        try:
            event = RecordedEvent.FromString(record)
        except DecodeError as error:
            raise DataLoss("LOG_CORRUPT", f"What follows {head.position} is no event") from error
        head = Head(event.position, chain(head.digest, record))
        events.append(event)
        heads.append(head)
    if events and head.digest != response.checkpoint.digest:
        raise DataLoss(
            "LOG_DIVERGED",
            f"What was received up to {head.position} is not the upstream's log up to there",
        )
    return events, heads
