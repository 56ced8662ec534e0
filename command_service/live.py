"""The aggregates in memory: their newest states, which may be ahead of the log."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import structlog
from google.protobuf.message import DecodeError, Message

from command_service.aggregates.rules import Rules
from shared.aggregates.aggregate import CorruptHistory, UnknownEvent
from shared.errors import DataLoss, Internal, TidemarkError, Unavailable
from shared.log.log import MAX_PAGE_EVENTS, AggregateKey, EventLog, History
from tidemark.v1.event_pb2 import RecordedEvent

logger = structlog.get_logger(__name__)


class LiveAggregate:
    """An aggregate's newest state.

    Args:
        rules: of its kind.
        key: which it is.
        state: None if it does not exist.
        snapshot_version: that of its newest snapshot; 0: none.
    """

    __slots__ = (
        "blockers",
        "durable_version",
        "is_lost",
        "key",
        "pending",
        "rules",
        "snapshot_version",
        "state",
        "version",
    )

    def __init__(
        self, rules: Rules[Any], key: AggregateKey, state: Message | None, snapshot_version: int
    ) -> None:
        self.rules = rules
        self.key = key
        self.state = state
        self.snapshot_version = snapshot_version
        self.version = 0 if state is None else state.version  # type: ignore[attr-defined]  # by name
        """Events behind the state, those included that are not durable yet."""
        self.durable_version = self.version
        self.pending = 0
        """Commands in line that rest on this state, or wait for it to be known."""
        self.blockers = 0
        """Those among them that may have to be decided before any that comes later."""
        self.is_lost = False
        """Whether it has events that were not committed after all."""

    def apply(self, payload: Message) -> None:
        """Records an event that is about to be committed."""
        aggregate_id = self.key.aggregate_id
        self.state = self.rules.aggregate.apply(self.state, aggregate_id, payload)
        self.version += 1


class LiveAggregates:
    """A bounded cache of them; the least recently used leaves first, none while it is needed."""

    def __init__(self, log: EventLog, limit: int) -> None:
        self._log = log
        self._limit = limit
        self._cached: OrderedDict[AggregateKey, LiveAggregate] = OrderedDict()

    def __contains__(self, key: AggregateKey) -> bool:
        return key in self._cached

    def get(self, key: AggregateKey) -> LiveAggregate | None:
        """The aggregate, if it is cached."""
        live = self._cached.get(key)
        if live is not None:
            self._cached.move_to_end(key)
        return live

    def drop(self, live: LiveAggregate) -> None:
        """Has the aggregate read from the log again."""
        if self._cached.get(live.key) is live:
            del self._cached[live.key]

    async def load(
        self, wanted: Mapping[AggregateKey, Rules[Any]]
    ) -> dict[AggregateKey, TidemarkError]:
        """Reads aggregates from the log into the cache.

        Returns:
            Those that cannot be had, and why.
        """
        schemas = {key: rules.aggregate.snapshot_schema for key, rules in wanted.items()}
        try:
            histories = await self._log.load(schemas)
        except TidemarkError as error:
            return dict.fromkeys(wanted, error)
        failures: dict[AggregateKey, TidemarkError] = {}
        for key, rules in wanted.items():
            # Many long histories take long to fold: others' turn in between.
            await asyncio.sleep(0)
            try:
                self._cached[key] = await self._folded(rules, key, histories[key])
            except TidemarkError as error:
                failures[key] = error
            except Exception:
                # One aggregate that cannot be folded must not stop the others.
                logger.exception("fold_failed", aggregate=key)
                failures[key] = Internal()
        return failures

    def evict(self) -> None:
        """Lets go of what is too much."""
        for _ in range(len(self._cached) - self._limit):
            key, live = next(iter(self._cached.items()))
            if live.pending:
                self._cached.move_to_end(key)
            else:
                del self._cached[key]

    async def _folded(
        self, rules: Rules[Any], key: AggregateKey, history: History
    ) -> LiveAggregate:
        aggregate = rules.aggregate
        state: Any = None
        snapshot_version = 0
        records = history.records
        if history.snapshot is not None:
            try:
                state = aggregate.state.FromString(history.snapshot.state)
                snapshot_version = history.snapshot.version
            except DecodeError:
                # It only saves work, and the events are all there.
                logger.warning("snapshot_ignored", aggregate=key, exc_info=True)
                records = await self._log.read_aggregate(key)
        try:
            while True:
                for record in records:
                    state = aggregate.fold(state, RecordedEvent.FromString(record))
                if len(records) < MAX_PAGE_EVENTS:
                    break
                records = await self._log.read_aggregate(key, state.version)
        except (CorruptHistory, DecodeError) as error:
            raise DataLoss("LOG_CORRUPT", "The aggregate's history is damaged") from error
        except UnknownEvent as error:
            raise Unavailable("UNKNOWN_EVENT", "The log is newer than this service") from error
        return LiveAggregate(rules, key, state, snapshot_version)
