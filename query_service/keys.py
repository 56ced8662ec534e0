"""The keys of personal fields, from the service that is followed, kept for a while.

Whom the copy of the log calls erased has no key here from then on. Any other key is gone some
minutes after it was asked for: who is cut off is not to read for ever what others cannot.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import grpc
import structlog

from shared.aggregates.aggregate import Aggregate
from shared.call import Call
from shared.errors import DataLoss, Exhausted, TidemarkError, Unavailable
from shared.log.log import AggregateKey, EventFilter, EventLog
from shared.outage import Outage
from shared.personal.fields import erased_by, erasing_events
from shared.personal.requests import MAX_KEYS, keys_response, keys_wanted
from shared.personal.sealing import DESTROYED, Keys
from shared.security.misconfigured import Misconfigured
from shared.security.tenants import TENANT_HEADER
from shared.security.upstream import Metadata, Upstream
from tidemark.v1.personal_pb2 import GetKeysRequest, GetKeysResponse

METHOD = "/tidemark.v1.KeyService/GetKeys"

ANSWER_S = 3.0
"""Within which the upstream has to answer."""

KEPT_S = 300.0
"""The longest that a key is kept."""

MAX_KEPT = 50_000

EVERY_S = 1.0
"""From one look at what the log says of erasures to the next, while nobody asks."""

LATELY_NS = 3600 * 1_000_000_000
"""Who was erased longer ago than that has no key at the upstream any more: there it is destroyed
within seconds, or at its next start before it answers."""

logger = structlog.get_logger(__name__)

T = TypeVar("T")

Connection = tuple[grpc.aio.Channel, Metadata]

Kind = tuple[str, str]
"""A tenant's id, and the type of its aggregates."""


class _Kept(NamedTuple):
    key: bytes
    until: float


class _Question:
    """What the upstream is asked at once: whose keys, of one tenant and one kind.

    While one is on its way the next one gathers: at a start, whoever is read needs a key.
    """

    answer: asyncio.Task[Keys]

    def __init__(self, kind: Kind, aggregates: Iterable[AggregateKey]) -> None:
        self.kind = kind
        self.aggregates = set(aggregates)
        self.is_asked = False

    def takes(self, aggregates: Collection[AggregateKey]) -> bool:
        """Has it be about these, too, and says whether that was possible.

        One that is asked may be so on a connection that is dead: who comes later is in the next
        one, which is asked when that has ended, and then on another connection.
        """
        if self.is_asked or len(self.aggregates.union(aggregates)) > MAX_KEYS:
            return False
        self.aggregates.update(aggregates)
        return True


class UpstreamKeys:
    """See the module's description.

    Args:
        upstream: the command service, or a query service.
        log: the copy of its log, which says who is erased.
        aggregates: the kinds that are in it.
    """

    def __init__(
        self,
        upstream: Upstream,
        log: EventLog,
        aggregates: Sequence[Aggregate[Any]],
    ) -> None:
        self._upstream = upstream
        self._log = log
        self._kinds = [aggregate.name for aggregate in aggregates]
        self._filter = EventFilter(event_types=erasing_events(aggregates))
        self._kept: OrderedDict[AggregateKey, _Kept] = OrderedDict()
        """What is kept longest comes first."""
        self._erased: set[AggregateKey] = set()
        """Whom the log calls erased lately, up to `_position`, whatever the upstream says."""
        self._position: int | None = None
        self._questions: dict[Kind, _Question] = {}
        """The latest of each kind that is not answered."""
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._catching_up = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outage = Outage("keys_unavailable", upstream=upstream.upstream)
        self._reading = Outage("erasures_not_read")

    async def run(self) -> None:
        """Looks through the log as it grows, until cancelled, so that who asks need not wait."""
        while self._filter.event_types:
            try:
                await self._catch_up()
                self._reading.succeeded()
            except (DataLoss, Exhausted, Unavailable) as error:
                self._reading.failed(error.reason, exc_info=error)
            await asyncio.sleep(EVERY_S)
            await self._log.wait(self._position or 0)

    async def find(self, aggregates: Collection[AggregateKey]) -> Keys:
        """The keys of aggregates, all of one tenant and of one kind.

        Raises:
            Unavailable: KEYS_UNAVAILABLE: the upstream has to be asked, and does not answer.
            DataLoss: KEY_LOST: the key store does not have one that it must have had.
        """
        await self._catch_up()
        found = dict.fromkeys(self._erased.intersection(aggregates), DESTROYED)
        found |= {each: self._kept[each].key for each in aggregates if each in self._kept}
        if missing := [each for each in aggregates if each not in found]:
            found |= await self._find_upstream(missing)
            # Some may have been erased meanwhile.
            found |= dict.fromkeys(self._erased.intersection(found), DESTROYED)
        return found

    async def get_keys(self, request: GetKeysRequest, call: Call) -> GetKeysResponse:
        """KeyService for those who follow this service: nothing is kept on the way."""
        wanted = keys_wanted(request, call.tenant_id, self._kinds)
        if not wanted:
            return keys_response({})
        # As a question does, it goes on if the caller gives up first.
        return keys_response(await asyncio.shield(self._start(self._ask(wanted))))

    def disconnect(self) -> None:
        """Has the next call make a connection anew, with credentials as they are then."""
        if self._connection is not None:
            channel, _ = self._connection
            self._connection = None
            # Others may still wait for an answer on it.
            self._start(channel.close(ANSWER_S + 1))

    async def close(self) -> None:
        """Closes the connection, and keeps nothing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._kept.clear()
        if self._connection is not None:
            await self._connection[0].close()

    async def _find_upstream(self, aggregates: Sequence[AggregateKey]) -> Keys:
        keys = await asyncio.shield(self._question(aggregates).answer)
        if not keys.keys() >= set(aggregates):
            raise DataLoss("KEY_LOST", "There is no key for what is personal")
        return {each: keys[each] for each in aggregates}

    def _question(self, aggregates: Sequence[AggregateKey]) -> _Question:
        """A question that is yet to be asked, with these among what it is about.

        It goes on without whoever has it asked: only so is a connection found out that is dead, or
        a key kept for whoever has little time.
        """
        tenant_id, aggregate_type, _ = aggregates[0]
        latest = self._questions.get((tenant_id, aggregate_type))
        if latest is not None and latest.takes(aggregates):
            return latest
        question = _Question((tenant_id, aggregate_type), aggregates)
        if latest is None or latest.is_asked:
            self._questions[question.kind] = question
            question.answer = self._start(self._answer(question, latest))
        else:
            # One waits already, and is full. A line of them would outlast those who stand in it.
            question.answer = self._start(self._answer(question, None))
        return question

    async def _answer(self, question: _Question, before: _Question | None) -> Keys:
        if before is not None:
            await asyncio.wait([before.answer])
        question.is_asked = True
        known = {each: self._kept[each].key for each in question.aggregates if each in self._kept}
        wanted = [each for each in question.aggregates if each not in known]
        try:
            keys = await self._ask(wanted) if wanted else {}
        finally:
            if self._questions.get(question.kind) is question:
                del self._questions[question.kind]
        # The upstream destroys a key after it has recorded that, and the copy may know meanwhile.
        await self._catch_up()
        keys |= dict.fromkeys(self._erased.intersection(keys), DESTROYED)
        for aggregate, key in keys.items():
            self._keep(aggregate, key)
        return known | keys

    def _keep(self, aggregate: AggregateKey, key: bytes) -> None:
        self._kept.pop(aggregate, None)
        self._kept[aggregate] = _Kept(key, time.monotonic() + KEPT_S)
        asyncio.get_running_loop().call_later(KEPT_S, self._let_go)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    def _let_go(self) -> None:
        now = time.monotonic()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._kept.popitem(last=False)

    async def _catch_up(self) -> None:
        """Notes whom the copy of the log calls erased, up to its head."""
        self._let_go()
        if not self._filter.event_types:
            return
        # At a start there is much to read, and many may wait for it: one reads for all.
        async with self._catching_up:
            if self._position is None:
                # However long the log is, this takes no longer.
                lately = (time.time_ns() - LATELY_NS) // 1000
                self._position = await self._log.position_at(lately)
            while self._position < self._log.head.position:
                page = await self._log.read(self._position, event_filter=self._filter)
                for aggregate in map(erased_by, page.records):
                    self._erased.add(aggregate)
                    self._kept.pop(aggregate, None)
                self._position = page.position

    async def _ask(self, aggregates: Sequence[AggregateKey]) -> dict[AggregateKey, bytes]:
        """What the upstream has of keys.

        Raises:
            Unavailable: KEYS_UNAVAILABLE.
        """
        try:
            keys = await self._ask_for(*aggregates[0][:2], [each[2] for each in aggregates])
        except (grpc.aio.AioRpcError, OSError, Misconfigured) as error:
            code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "CREDENTIALS"
            self._outage.failed(code, why=str(error))
            raise Unavailable("KEYS_UNAVAILABLE", "What is personal cannot be read now") from error
        self._outage.succeeded()
        return keys

    async def _ask_for(
        self, tenant_id: str, aggregate_type: str, aggregate_ids: Sequence[str]
    ) -> dict[AggregateKey, bytes]:
        async with self._connecting:
            connection = self._connection = self._connection or await self._upstream.connect()
        channel, credentials = connection
        get_keys = channel.unary_unary(
            METHOD,
            request_serializer=GetKeysRequest.SerializeToString,
            response_deserializer=GetKeysResponse.FromString,
        )
        request = GetKeysRequest(aggregate_type=aggregate_type, aggregate_ids=aggregate_ids)
        metadata = ((TENANT_HEADER, tenant_id), *credentials)
        try:
            response = await get_keys(request, metadata=metadata, timeout=ANSWER_S)
        except grpc.aio.AioRpcError:
            if self._connection is connection:
                self.disconnect()
            raise
        return {
            AggregateKey(tenant_id, aggregate_type, each.aggregate_id): each.key
            for each in response.keys
        }

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, TidemarkError):
            logger.error("keys_not_asked", exc_info=error)
