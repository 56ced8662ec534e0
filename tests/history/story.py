"""Histories made by hand: what happened, told call by call, and then perhaps told wrongly."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import grpc
from google.protobuf.message import Message

from shared.aggregates.aggregate import pack
from shared.errors import TidemarkError
from shared.log.log import AggregateKey, stamp
from tests.history.checker import check
from tests.history.commands import RULES_OF, bare
from tests.history.recorded import (
    Call,
    Delivery,
    Failure,
    History,
    LogCopy,
    Pages,
    Subscription,
    Unknown,
    Views,
    Watch,
    Watching,
)
from tests.history.timeline import Timeline
from tests.history.violation import Violation
from tests.services.commanding import code_of
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt
from tidemark.v1.event_pb2 import EventFilter, RecordedEvent

Answer = CommandReceipt | Failure | Unknown
SECOND = 1_000_000


class Story:
    """A run of which everything is told by a test. Each call begins after the one before it."""

    def __init__(self) -> None:
        self.history = History()
        self.records: list[bytes] = []
        self._clock = 0.0
        self._ids = 0

    @property
    def timeline(self) -> Timeline:
        """The log so far."""
        return Timeline(self.records)

    @property
    def head(self) -> int:
        """Its last position."""
        return len(self.records)

    def does(
        self, command: Message, tenant_id: str = "red", answer: Answer | None = None, **context: Any
    ) -> Answer:
        """A command is executed and answered as it should be, or answered with something else."""
        context.setdefault("command_id", self.new_id())
        asked = type(command)(context=CommandContext(**context))
        asked.MergeFrom(command)
        given = answer or self._executed(asked, tenant_id)
        self.says(asked, given, tenant_id)
        return given

    def says(self, request: Message, answer: Any, tenant_id: str = "red") -> None:
        """A call is answered with this, whatever is true."""
        invoked, self._clock = self._clock + 1.0, self._clock + 2.0
        self.history.calls.append(
            Call("client", "service", tenant_id, request, invoked, self._clock, answer)
        )

    def writes(
        self,
        payload: Message,
        key: AggregateKey,
        version: int,
        command_id: str = "",
        **fields: Any,
    ) -> int:
        """An event comes into the log, whoever asked for it; its position."""
        event = RecordedEvent(
            event_id=self.new_id(),
            tenant_id=key.tenant_id,
            aggregate_type=key.aggregate_type,
            aggregate_id=key.aggregate_id,
            version=version,
            payload=pack(payload),
            **fields,
        )
        event.causation_id = command_id or self.new_id()
        event.correlation_id = event.correlation_id or event.causation_id
        position = self.head + 1
        self.records.append(stamp(event, position, position * SECOND))
        return position

    def is_followed(
        self, tenant_id: str = "*", event_filter: EventFilter | None = None
    ) -> Subscription:
        """A subscriber reads the whole log, two events at a time, and comes back in the middle."""
        wanted = event_filter or EventFilter()
        subscription = Subscription("subscriber", tenant_id, wanted, connections=[[], []])
        for start in range(0, self.head, 2):
            position = min(start + 2, self.head)
            timeline = self.timeline
            events = [
                record
                for record, event in zip(
                    self.records[start:position], timeline.events[start:position], strict=True
                )
                if tenant_id in {"*", event.tenant_id}
                and (not wanted.aggregate_ids or event.aggregate_id in wanted.aggregate_ids)
            ]
            is_whole = (tenant_id, wanted) == ("*", EventFilter())
            digest = timeline.digests[position] if is_whole else b""
            delivery = Delivery(self._clock, tuple(events), position, digest, self.head)
            subscription.connections[start >= self.head // 2].append(delivery)
        self.history.subscriptions.append(subscription)
        return subscription

    def is_watched(self, request: Any, *connections: Sequence[Message]) -> None:
        """A watch shows these states, on one connection after the other."""
        watch = Watch("watcher", "red", request)
        position = request.min_position
        for responses in connections:
            shown = [(self._clock, response) for response in responses]
            watch.connections.append(Watching(position, shown))
            last: Any = responses[-1]
            position = last.position
        self.history.watches.append(watch)

    def is_shown(self, request: Message, response: Message, rebuilt: Message) -> None:
        """A list was this in the end, and that after a rebuild."""
        views = Views(
            "query",
            (Pages("red", request, (response,)),),
            (Pages("red", request, (rebuilt,)),),
        )
        self.history.views.append(views)

    def ends(self) -> History:
        """Everything is told: the logs are as they were written."""
        copy = LogCopy("command", tuple(self.records), self.timeline.digests[-1])
        self.history.log = copy
        self.history.replicas = [replace(copy, server="query")]
        return self.history

    def violations(self) -> list[Violation]:
        """What the checker says of it."""
        return check(self.ends())

    def _executed(self, command: Any, tenant_id: str) -> Answer:
        rules = RULES_OF[command.DESCRIPTOR.full_name]
        aggregate_id = getattr(command, rules.aggregate.id_field)
        key = AggregateKey(tenant_id, rules.aggregate.name, aggregate_id)
        timeline = self.timeline
        version = timeline.version_at(key, self.head)
        context = command.context
        if context.HasField("expected_version") and context.expected_version != version:
            metadata = {"actual_version": str(version)}
            return Failure(grpc.StatusCode.ABORTED, "WRONG_VERSION", metadata)
        try:
            [payload] = rules.decide(timeline.state(key, version), bare(command))
        except TidemarkError as error:
            return Failure(code_of(error.code), error.reason)
        command_id = context.command_id
        correlation_id = context.correlation_id
        position = self.writes(payload, key, version + 1, command_id, correlation_id=correlation_id)
        return CommandReceipt(
            command_id=command_id,
            aggregate_id=aggregate_id,
            version=version + 1,
            position=position,
        )

    def new_id(self) -> str:
        """A UUID that nothing else has."""
        self._ids += 1
        return str(UUID(int=self._ids, version=4))
