"""Events as flat dictionaries."""

import pytest

from shared.json_events import EVENT_TYPES, EventTypes, from_dict
from shared.json_events.flat import NotFlat, to_flat
from shared.json_events.older import from_older, is_older
from tests.json_events.test_events import GOLDEN, LOADED, NO_TYPES, described, with_payload
from tidemark.v1.event_pb2 import RecordedEvent


def test_an_event_is_said_beside_the_fields_of_its_payload() -> None:
    assert to_flat(LOADED) == {
        "event_id": "0197f3a1-0000-7000-8000-000000000104",
        "correlation_id": "0197f3a1-0000-7000-8000-000000000301",
        "occurred_at": "2025-06-15T15:06:41.123456Z",
        "tenant_id": "default",
        "event_type": "tidemark.v1.CargoLoaded",
        "ship_id": "imo-9811000",
        "item": "silk 絲",
        "quantity": 1_000_000_000,
        "port": "Rotterdam",
    }


@pytest.mark.parametrize("event", GOLDEN, ids=lambda event: str(event.position))
def test_every_event_ever_shipped_is_read_back_from_it(event: RecordedEvent) -> None:
    flat = to_flat(event)

    assert is_older(flat)
    read = from_older(flat, EVENT_TYPES)
    expected = RecordedEvent()
    expected.CopyFrom(event)
    for name in ("position", "version", "causation_id", "actor"):
        expected.ClearField(name)
    expected.ClearField("command_fingerprint")
    expected.ClearField("traceparent")
    assert read.event == expected
    assert not read.is_naive


@pytest.mark.parametrize(
    ("event", "types", "why"),
    [
        (LOADED, NO_TYPES, "tidemark.v1.CargoLoaded, is of a type unknown here"),
        (with_payload(b"\xff"), EVENT_TYPES, "tidemark.v1.CargoLoaded, does not parse"),
    ],
)
def test_a_payload_that_cannot_be_read_is_refused(
    event: RecordedEvent, types: EventTypes, why: str
) -> None:
    with pytest.raises(NotFlat, match=why):
        to_flat(event, types)


def test_what_was_imported_as_json_is_said_as_it_came_unless_its_names_are_the_envelopes() -> None:
    painted = from_dict(described(event_type="other.Painted", data={"colour": "red"}))
    assert to_flat(painted)["colour"] == "red"

    sold = from_dict(described(event_type="other.Sold", data={"tenant_id": "acme", "ship_id": "2"}))
    with pytest.raises(NotFlat, match="of the envelope's names: ship_id, tenant_id"):
        to_flat(sold)
