"""The query service's own copy of the log, kept by following another service."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

import structlog

from shared.errors import DataLoss, Exhausted, Unavailable
from shared.event_log_service import Origin
from shared.following import SILENCE_S, follow
from shared.log.log import (
    MAX_PAGE_EVENTS,
    MICROSECONDS,
    EventLog,
    Head,
    time_of_timestamp,
)
from shared.outage import Outage
from shared.security.upstream import Upstream
from shared.telemetry import tracing
from tidemark.internal.v1.stored_pb2 import StoredSubscribeResponse
from tidemark.v1.event_pb2 import Checkpoint

MAX_GATHERED_EVENTS = 40_000
MAX_GATHERED_BYTES = 12 << 20
"""Beyond, the upstream is not read further until they are copied."""

GATHERING_S = 1.0
"""For how long they are gathered while more come."""

FIRST_WORD_S = 3.0
"""How long it waits at its start for the upstream to say how long the log is."""

RETRY_S = 1.0
"""After an error of the machine, such as a full disk."""

logger = structlog.get_logger(__name__)


class Replica:
    """Copies what the upstream has into a log, byte for byte, and checks it on the way.

    Args:
        log: the copy.
        upstream: the command service, or a query service.
        on_fault: told when following has to stop because the two logs are not the same.
        on_lost: told when the connection to the upstream has been lost.
    """

    def __init__(
        self,
        log: EventLog,
        upstream: Upstream,
        on_fault: Callable[[], Awaitable[None]],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._log = log
        self._upstream = upstream
        self._on_fault = on_fault
        self._on_lost = on_lost
        self._origin = Origin(0, 0)
        self._outage = Outage("copy_failed")
        self._first_head = 0
        self._has_first_head = asyncio.Event()
        # By this machine's clock: the origin's may differ, or jump.
        self._heard_at = float("-inf")
        self.fault = ""
        """Why following has stopped for good; empty: it has not."""

    @property
    def origin(self) -> Origin:
        """The command service's log, as last heard of."""
        return Origin(
            max(self._origin.head_position, self._log.head.position), self._origin.heard_at
        )

    @property
    def is_in_touch(self) -> bool:
        """Whether the origin was heard of recently; if not, how far this lags is unknown."""
        return not self.fault and time.monotonic() - self._heard_at < SILENCE_S

    async def first_head(self) -> int:
        """How long the log was when that was first heard of since the start.

        Where the upstream does not say it within 3 s, or has another log: how long the copy is. An
        empty one says nothing, so then it is waited for.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_WORD_S):
                await self._has_first_head.wait()
        if not self._has_first_head.is_set() and self._log.head.position:
            return self._log.head.position
        await self._has_first_head.wait()
        return self._first_head

    async def run(self) -> None:
        """Follows until cancelled, or until the logs turn out to differ."""
        try:
            while True:
                try:
                    await self._follow()
                except (Exhausted, Unavailable) as error:
                    self._outage.failed(error.reason, exc_info=error)
                    await asyncio.sleep(RETRY_S)
        except DataLoss as error:
            self.fault = str(error)
            self._note_head(self._log.head.position)
            logger.exception("following_stopped", position=self._log.head.position)
            await self._on_fault()

    async def _follow(self) -> None:
        inbox = _Inbox(self._log.head, self._hear)
        reader = asyncio.create_task(
            inbox.fill(self._upstream, self._on_lost), name="read upstream"
        )
        try:
            while responses := await inbox.take():
                checkpoint = responses[-1].checkpoint
                records = [record for response in responses for record in response.events]
                if records:
                    begun = time.perf_counter()
                    await self._log.copy(records, checkpoint.digest)
                    seconds = time.perf_counter() - begun
                    self._outage.succeeded()
                    tracing.tracer.record_events("subscribe", records, seconds)
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _note_head(self, position: int) -> None:
        if not self._has_first_head.is_set():
            self._first_head = position
            self._has_first_head.set()

    def _hear(self, checkpoint: Checkpoint) -> None:
        """Notes what an upstream says; one that has not heard anything new itself says nothing."""
        if checkpoint.HasField("origin_heard_at"):
            self._note_head(checkpoint.origin_head_position)
        heard_at = time_of_timestamp(checkpoint.origin_heard_at)
        origin = Origin(checkpoint.origin_head_position, heard_at)
        if not origin.heard_at or origin.heard_at == self._origin.heard_at:
            return
        age_s = time.time() - origin.heard_at / MICROSECONDS
        # Of the first word only the two clocks can tell how old it is; every change is new.
        if self._origin.heard_at or age_s < SILENCE_S:
            self._heard_at = time.monotonic()
        self._origin = origin


class _Inbox:
    """What has come and is not copied yet: while one copy is made, the next one gathers.

    Far behind, it is copied in large pieces: a projection then meets each aggregate once in many
    events.

    Args:
        head: of the copy.
        hear: told what each response says of the origin, when it comes.
    """

    def __init__(self, head: Head, hear: Callable[[Checkpoint], None]) -> None:
        self._head = head
        self._hear = hear
        self._first_came_at = 0.0
        self._responses: list[StoredSubscribeResponse] = []
        self._count = 0
        self._bytes = 0
        self._is_over = False
        self._has_some = asyncio.Event()
        self._has_room = asyncio.Event()

    async def fill(self, upstream: Upstream, on_lost: Callable[[], None]) -> None:
        """Follows an upstream from the head.

        Raises:
            DataLoss: LOG_DIVERGED.
        """

        def lost() -> None:
            if self._responses:
                self._has_some.set()
            on_lost()

        try:
            # After a cut it goes on from what has come, which will be copied.
            async with aclosing(follow(upstream, lambda: self._head, lost)) as responses:
                async for response in responses:
                    self._add(response)
                    if self._is_full:
                        self._has_room.clear()
                        await self._has_room.wait()
        finally:
            self._is_over = True
            self._has_some.set()

    async def take(self) -> list[StoredSubscribeResponse]:
        """All that has come, at least one response; none: no more will come."""
        if not self._is_over:
            await self._has_some.wait()
            self._has_some.clear()
        responses, self._responses = self._responses, []
        self._count = self._bytes = 0
        self._has_room.set()
        return responses

    def _add(self, response: StoredSubscribeResponse) -> None:
        checkpoint = response.checkpoint
        self._hear(checkpoint)
        now = asyncio.get_running_loop().time()
        if not self._responses:
            self._first_came_at = now
        self._head = Head(checkpoint.position, checkpoint.digest)
        self._responses.append(response)
        self._count += len(response.events)
        self._bytes += sum(map(len, response.events))
        # By less than a page: a head that moves all the time may never be reached.
        is_close = checkpoint.head_position - checkpoint.position < MAX_PAGE_EVENTS
        is_late = now - self._first_came_at > GATHERING_S
        if is_close or is_late or self._is_full:
            self._has_some.set()

    @property
    def _is_full(self) -> bool:
        return self._count >= MAX_GATHERED_EVENTS or self._bytes >= MAX_GATHERED_BYTES
