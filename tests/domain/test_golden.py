"""Every event ever shipped can still be read, and means what it meant.

`golden/events.json` holds, for each: the record, as a log stores it, in hexadecimal; the same as
JSON; and the state of its aggregate after it. A failure here means that logs which exist would be
read differently: take the change back, or make it so that old events keep their meaning.

A new event, or one with a new field, is appended as the next of its aggregate's history, with fixed
values in every field: `stamp(RecordedEvent(…, payload=pack(…)), position, time).hex()`. Nothing is
ever edited or removed; a state may gain what a new field of it says. No program writes the file.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from command_service.aggregates import RULES
from shared.aggregates.aggregate import Aggregate
from shared.log.log import stamp, time_of
from tidemark.v1.event_pb2 import RecordedEvent

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "events.json").read_text(encoding="utf-8")
)
AGGREGATES: dict[str, Aggregate[Any]] = {rules.aggregate.name: rules.aggregate for rules in RULES}

each_record = pytest.mark.parametrize(
    "golden", GOLDEN, ids=[golden["event"]["payload"]["@type"].split(".")[-1] for golden in GOLDEN]
)


def recorded(golden: dict[str, Any]) -> RecordedEvent:
    return RecordedEvent.FromString(bytes.fromhex(golden["record"]))


def as_json(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, use_integers_for_enums=True)


@each_record
def test_a_record_is_read_as_the_event_that_it_was(golden: dict[str, Any]) -> None:
    assert as_json(recorded(golden)) == golden["event"]


@each_record
def test_an_event_that_was_read_is_written_as_the_same_bytes(golden: dict[str, Any]) -> None:
    event = recorded(golden)
    assert event.SerializeToString(deterministic=True).hex() == golden["record"]


@each_record
def test_an_event_written_from_its_json_is_the_same_bytes(golden: dict[str, Any]) -> None:
    event = ParseDict(golden["event"], RecordedEvent())
    assert event.SerializeToString(deterministic=True).hex() == golden["record"]


@each_record
def test_the_log_stores_the_same_event_as_the_same_bytes(golden: dict[str, Any]) -> None:
    event = recorded(golden)
    position, time = event.position, time_of(event)
    event.ClearField("position")
    event.ClearField("occurred_at")
    assert stamp(event, position, time).hex() == golden["record"]


def test_the_golden_history_leads_each_aggregate_through_the_golden_states() -> None:
    states: dict[str, Any] = {}
    for golden in GOLDEN:
        event = recorded(golden)
        aggregate = AGGREGATES[event.aggregate_type]
        state = aggregate.fold(states.get(aggregate.name), event)
        states[aggregate.name] = state
        assert as_json(state) == golden["state"]
    assert states.keys() == AGGREGATES.keys()


def test_every_event_of_every_aggregate_has_a_golden_record() -> None:
    shipped = {recorded(golden).payload.type_url.split("/")[1] for golden in GOLDEN}
    assert shipped == {name for aggregate in AGGREGATES.values() for name in aggregate.event_types}


def test_every_field_of_an_event_is_set_in_some_golden_record() -> None:
    # One that never is could be renumbered unnoticed.
    envelopes: set[str] = set()
    payloads: dict[type[Message], set[str]] = {}
    for golden in GOLDEN:
        event = recorded(golden)
        payload = AGGREGATES[event.aggregate_type].unpack(event)
        envelopes |= fields_set(event)
        payloads.setdefault(type(payload), set()).update(fields_set(payload))
    assert envelopes == {*RecordedEvent.DESCRIPTOR.fields_by_name}
    assert payloads == {each: {*each.DESCRIPTOR.fields_by_name} for each in payloads}


def fields_set(message: Message) -> set[str]:
    return {field.name for field, _ in message.ListFields()}
