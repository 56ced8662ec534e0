"""What a log holds, read through the port page by page."""

from collections.abc import Iterable
from hashlib import sha256

from shared.log.log import EMPTY_DIGEST, EVERYTHING, MAX_PAGE_EVENTS, EventFilter, EventLog
from tidemark.v1.event_pb2 import RecordedEvent


async def records_of(
    log: EventLog, event_filter: EventFilter = EVERYTHING, limit: int = MAX_PAGE_EVENTS
) -> list[bytes]:
    """All that the filter selects; every page has to come further, up to the head."""
    records: list[bytes] = []
    position = 0
    while position < log.head.position:
        page = await log.read(position, limit, event_filter)
        assert page.position > position
        assert len(page.records) <= limit
        records += page.records
        position = page.position
    return records


async def events_of(log: EventLog) -> list[RecordedEvent]:
    return parsed(await records_of(log))


def parsed(records: Iterable[bytes]) -> list[RecordedEvent]:
    return [RecordedEvent.FromString(record) for record in records]


def positions_of(records: Iterable[bytes]) -> list[int]:
    return [event.position for event in parsed(records)]


def versions_of(records: Iterable[bytes]) -> list[int]:
    return [event.version for event in parsed(records)]


def digests_of(records: Iterable[bytes]) -> list[bytes]:
    """Before the first record and after each, computed from nothing but the records."""
    digests = [EMPTY_DIGEST]
    for record in records:
        digests.append(sha256(digests[-1] + record).digest())
    return digests
