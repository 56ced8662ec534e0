"""What a log holds after a test, in the words of the domain."""

from google.protobuf.message import Message

from command_service.aggregates import RULES
from shared.log.log import AggregateKey, EventLog
from tests.log.reading import events_of
from tidemark.v1.event_pb2 import RecordedEvent

AGGREGATES = {rules.aggregate.name: rules.aggregate for rules in RULES}


def payload_of(event: RecordedEvent) -> Message:
    return AGGREGATES[event.aggregate_type].unpack(event)


async def payloads_of(log: EventLog, key: AggregateKey) -> list[Message]:
    """One aggregate's history; its versions are 1, 2, 3, …"""
    events = [
        event
        for event in await events_of(log)
        if (event.tenant_id, event.aggregate_type, event.aggregate_id) == key
    ]
    assert [event.version for event in events] == list(range(1, len(events) + 1))
    return [payload_of(event) for event in events]
