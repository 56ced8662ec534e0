"""Bringing events from a file into a log: all that are not there yet, or none.

Everything is checked before anything is written, against the log and against the lines before it.
What is there already stays as it is, so an import that was cut off is simply repeated.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import IO, Any

import uuid_utils

from shared.aggregates.aggregate import Aggregate, CorruptHistory, UnknownEvent
from shared.checks import identifier, new_identifier, violations_of
from shared.json_events import EVENT_TYPES, EventTypes, event_type_of
from shared.json_events.reading import Line
from shared.log.log import (
    MAX_PAGE_EVENTS,
    MICROSECONDS,
    AggregateKey,
    EventLog,
    time_of,
    timestamp_of,
)
from shared.security.tenants import EVERY_TENANT
from tidemark.v1.event_pb2 import RecordedEvent

MAX_PROBLEMS = 20
"""At which the rest of the file is not looked at."""

LENGTH_BYTES = 4
"""Before each record while all wait for the last one to be checked."""

CHECKS = (identifier("tenant_id"), identifier("aggregate_id"), new_identifier("correlation_id"))


class ImportRefused(Exception):
    """Nothing was written.

    Args:
        problems: a sentence each, with the line.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _Problem(Exception):
    """A line that cannot be imported."""


@dataclass
class Imported:
    """What an import did.

    Args:
        written: events that the log has now.
        found: events that it had before.
        renumbered: of those written, how many got another position, since theirs was taken.
        naive: events whose time had no zone and was taken as UTC.
    """

    written: int = 0
    found: int = 0
    renumbered: int = 0
    naive: int = 0

    def sentences(self) -> list[str]:
        """The same, for people."""
        said = [f"{self.written} events imported, {self.found} were there already."]
        if self.renumbered:
            said.append(f"{self.renumbered} have other positions: the log already had theirs.")
        if self.naive:
            said.append(f"{self.naive} times had no zone: they were taken as UTC.")
        return said


async def import_events(
    log: EventLog, lines: Iterable[Line], types: EventTypes = EVENT_TYPES
) -> Imported:
    """Copies the events of a file into a log that nobody else writes to.

    Ids, versions and times stay what they are; so does a position, unless the log already goes
    beyond it. In memory are the states of all aggregates in the file, and the event_ids.

    Raises:
        ImportRefused: the file has something that cannot be imported.
        TidemarkError: the log failed; what was written up to then is whole, and the import can be
            repeated.
    """
    with tempfile.TemporaryFile() as spool:
        check = _Check(log, types)
        await check.run(lines, spool)
        spool.seek(0)
        while records := list(islice(_spooled(spool), MAX_PAGE_EVENTS)):
            await log.copy(records)
    return check.imported


class _Known:
    """An aggregate: its state, and what the log has of it.

    Args:
        aggregate: its kind.
        state: after the last event, in the log or in the file.
        versions: of the events in the log, by event_id; only kept for older formats.
    """

    def __init__(self, aggregate: Aggregate[Any], state: Any, versions: dict[str, int]) -> None:
        self.aggregate = aggregate
        self.state = state
        self.logged_version = self.version
        self.versions = versions

    @property
    def version(self) -> int:
        return 0 if self.state is None else int(self.state.version)


class _Check:
    """Goes through a file."""

    def __init__(self, log: EventLog, types: EventTypes) -> None:
        self.imported = Imported()
        self._log = log
        self._types = types
        self._known: dict[AggregateKey, _Known] = {}
        self._broken: set[AggregateKey] = set()
        self._event_ids: set[bytes] = set()
        self._position = log.head.position
        self._time = log.head.time
        self._stated_time = 0
        self._is_older: bool | None = None
        self._now = time.time_ns() // 1000

    async def run(self, lines: Iterable[Line], spool: IO[bytes]) -> None:
        """Writes the new records to the spool.

        Raises:
            ImportRefused: some line is wrong.
        """
        problems: list[str] = []
        for line in lines:
            try:
                record = await self._record(line)
            except _Problem as problem:
                problems.append(f"line {line.number}: {problem}")
                if len(problems) == MAX_PROBLEMS:
                    problems.append("…")
                    break
                continue
            if record is not None:
                spool.write(len(record).to_bytes(LENGTH_BYTES) + record)
        if problems:
            raise ImportRefused(problems)

    async def _record(self, line: Line) -> bytes | None:
        """What to write for a line; None if it is in the log.

        Raises:
            _Problem: it can be neither.
        """
        event = line.event
        if event is None:
            raise _Problem(line.problem)
        key = AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
        if key in self._broken:
            # What follows from a problem is none of its own.
            return None
        try:
            return await self._next_record(event, line, key)
        except _Problem:
            self._broken.add(key)
            raise

    async def _next_record(
        self, event: RecordedEvent, line: Line, key: AggregateKey
    ) -> bytes | None:
        aggregate = self._checked(event, line)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = await self._load(key, aggregate, line.is_older)
        if line.is_older:
            event.version = known.versions.get(event.event_id, known.version + 1)
        self.imported.naive += line.is_naive
        if event.version <= known.logged_version:
            await self._compare(event, key, line.is_older)
            self.imported.found += 1
            return None
        if event.version != known.version + 1:
            raise _Problem(
                f"version {event.version} of {_named(key)} follows version {known.version}"
            )
        self._place(event, line.is_older)
        known.state = _folded(aggregate, known.state, event, key)
        self.imported.written += 1
        return event.SerializeToString(deterministic=True)

    def _checked(self, event: RecordedEvent, line: Line) -> Aggregate[Any]:
        """The kind of aggregate that an event in good order is of."""
        if self._is_older is None:
            self._is_older = line.is_older
        if self._is_older != line.is_older:
            raise _Problem("an event in another format than those before it")
        if violations := violations_of(event, CHECKS):
            raise _Problem("; ".join(f"{field} {said}" for field, said in violations))
        if event.tenant_id == EVERY_TENANT:
            raise _Problem(f"tenant_id must not be {EVERY_TENANT}")
        if not _is_uuid(event.event_id):
            raise _Problem("event_id must be a UUID")
        if event.command_fingerprint and not _is_uuid(event.causation_id):
            raise _Problem("causation_id must be a UUID")
        if not event.HasField("occurred_at") or event.occurred_at.nanos % 1000:
            raise _Problem("occurred_at must be a time in whole microseconds")
        event_type = event_type_of(event)
        aggregate = self._types.aggregate(event_type)
        if aggregate is None:
            raise _Problem(f"event_type {event_type!r} is unknown to this program")
        if aggregate.name != event.aggregate_type:
            raise _Problem(f"{event_type} is no event of {event.aggregate_type!r}")
        return aggregate

    async def _load(
        self, key: AggregateKey, aggregate: Aggregate[Any], with_versions: bool
    ) -> _Known:
        state: Any = None
        versions = {}
        if self._log.head.position:
            while records := await self._log.read_aggregate(key, state.version if state else 0):
                for event in map(RecordedEvent.FromString, records):
                    state = _folded(aggregate, state, event, key)
                    if with_versions:
                        versions[event.event_id] = event.version
        return _Known(aggregate, state, versions)

    async def _compare(self, event: RecordedEvent, key: AggregateKey, is_older: bool) -> None:
        [record] = await self._log.read_aggregate(key, event.version - 1, limit=1)
        logged = RecordedEvent.FromString(record)
        event.position = logged.position
        if is_older:
            # The same time twice is made two when it is written.
            event.occurred_at.CopyFrom(logged.occurred_at)
        if event != logged:
            raise _Problem(f"version {event.version} of {_named(key)} is another one in the log")

    def _place(self, event: RecordedEvent, is_older: bool) -> None:
        """Sets position and time, if those that the event has cannot stand."""
        event_id = uuid_utils.UUID(event.event_id).bytes
        if event_id in self._event_ids:
            raise _Problem(f"event_id {event.event_id} comes twice")
        self._event_ids.add(event_id)
        stated = time_of(event)
        if stated <= self._log.head.time:
            raise _Problem(
                f"occurred at {_written(stated)}; the log already goes to"
                f" {_written(self._log.head.time)}"
            )
        if stated > self._now:
            raise _Problem(f"occurred at {_written(stated)}, which is in the future")
        if stated < self._stated_time + (not is_older):
            raise _Problem(
                f"occurred at {_written(stated)}; the one before it at"
                f" {_written(self._stated_time)}"
            )
        self._stated_time = stated
        self._time = max(stated, self._time + 1)
        event.occurred_at.CopyFrom(timestamp_of(self._time))
        if event.position <= self._position:
            self.imported.renumbered += not is_older
            event.position = self._position + 1
        self._position = event.position


def _spooled(spool: IO[bytes]) -> Iterator[bytes]:
    while length := spool.read(LENGTH_BYTES):
        yield spool.read(int.from_bytes(length))


def _folded(aggregate: Aggregate[Any], state: Any, event: RecordedEvent, key: AggregateKey) -> Any:
    try:
        return aggregate.fold(state, event)
    except (CorruptHistory, UnknownEvent, ValueError) as error:
        # A ValueError is a number that leads beyond what its field can hold.
        problem = f"version {event.version} of {_named(key)} cannot be: {error}"
        raise _Problem(problem) from error


def _is_uuid(written: str) -> bool:
    try:
        uuid_utils.UUID(written)
    except ValueError:
        return False
    return True


def _named(key: AggregateKey) -> str:
    return f"{key.aggregate_type} {key.aggregate_id!r} of tenant {key.tenant_id!r}"


def _written(moment: int) -> str:
    seconds, microseconds = divmod(moment, MICROSECONDS)
    exact = datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
    return exact.isoformat().replace("+00:00", "Z")
