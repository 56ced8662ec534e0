"""One event as JSON and back."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.json_events import EVENT_TYPES, EventTypes, NotAnEvent, from_dict, to_dict
from shared.json_events.cloudevents import to_cloudevent
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import CargoLoaded
from tidemark.v1.user_pb2 import UserCreated

GOLDEN = [
    RecordedEvent.FromString(bytes.fromhex(golden["record"]))
    for golden in json.loads(
        (Path(__file__).parent.parent / "domain" / "golden" / "events.json").read_text("utf-8")
    )
]
LOADED = GOLDEN[3]
NO_TYPES = EventTypes([])


def described(**changes: Any) -> dict[str, Any]:
    """The cargo that was loaded, as JSON, with changes."""
    return to_dict(LOADED) | changes


def with_payload(value: bytes, event_type: str = "tidemark.v1.CargoLoaded") -> RecordedEvent:
    event = RecordedEvent()
    event.CopyFrom(LOADED)
    event.payload.type_url = f"type.googleapis.com/{event_type}"
    event.payload.value = value
    return event


def test_an_event_says_what_happened_to_whom_and_when() -> None:
    assert to_dict(LOADED) == {
        "event_id": "0197f3a1-0000-7000-8000-000000000104",
        "event_type": "tidemark.v1.CargoLoaded",
        "tenant_id": "default",
        "aggregate_type": "ship",
        "aggregate_id": "imo-9811000",
        "version": 3,
        "position": 5,
        "occurred_at": "2025-06-15T15:06:41.123456Z",
        "correlation_id": "0197f3a1-0000-7000-8000-000000000301",
        "causation_id": "0197f3a1-0000-7000-8000-000000000204",
        "data": {"item": "silk 絲", "quantity": 1_000_000_000, "port": "Rotterdam"},
        "actor": "alice",
        "command_fingerprint": "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=",
    }


@pytest.mark.parametrize("event", GOLDEN, ids=lambda event: str(event.position))
def test_every_event_ever_shipped_is_made_again_to_the_byte(event: RecordedEvent) -> None:
    again = from_dict(json.loads(json.dumps(to_dict(event))))

    assert again.SerializeToString(deterministic=True) == event.SerializeToString(
        deterministic=True
    )


def test_a_field_that_is_zero_is_said() -> None:
    event = with_payload(UserCreated(username="ada").SerializeToString(), "tidemark.v1.UserCreated")

    assert to_dict(event)["data"] == {"username": "ada", "balance": 0}


def test_the_registry_has_every_event_by_either_name() -> None:
    assert EVENT_TYPES.message("tidemark.v1.CargoLoaded") is CargoLoaded
    assert EVENT_TYPES.full_name("CargoLoaded") == "tidemark.v1.CargoLoaded"
    aggregate = EVENT_TYPES.aggregate("tidemark.v1.CargoLoaded")
    assert aggregate is not None
    assert aggregate.name == "ship"
    assert EVENT_TYPES.message("tidemark.v1.LoadCargo") is None


def test_fields_that_are_not_known_are_ignored() -> None:
    data = {"item": "silk 絲", "quantity": 1_000_000_000, "port": "Rotterdam", "colour": "red"}

    assert from_dict(described(data=data, weather="fair")) == LOADED


def test_numbers_may_be_texts_as_protobuf_writes_them() -> None:
    data = {"item": "silk 絲", "quantity": "1000000000", "port": "Rotterdam"}

    assert from_dict(described(data=data, position="5")) == LOADED


def test_an_unknown_type_keeps_its_data_and_is_written_again_unchanged() -> None:
    data = {"bearing": 270, "lamps": ["red", None], "by": {"name": "Ada"}}
    unknown = described(event_type="tidemark.v1.ShipSighted", data=data)

    assert to_dict(from_dict(unknown)) == unknown


def test_an_unknown_message_keeps_its_bytes_and_is_written_again_unchanged() -> None:
    event = with_payload(b"\x0a\x03abc", "tidemark.v1.ShipSighted")

    said = to_dict(event)

    assert (said["data"], said["data_base64"]) == (None, "CgNhYmM=")
    assert from_dict(said) == event
    assert from_dict(to_dict(LOADED, NO_TYPES)) == LOADED


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(CargoLoaded(item="silk").SerializeToString() + b"\x7a\x01x", id="newer field"),
        pytest.param(b"\x18\x01" + CargoLoaded(item="silk").SerializeToString(), id="other order"),
        pytest.param(b"\xff", id="no message"),
    ],
)
def test_a_payload_that_its_data_does_not_say_exactly_is_kept_as_bytes(value: bytes) -> None:
    event = with_payload(value)

    assert "data_base64" in to_dict(event)
    assert from_dict(to_dict(event)) == event


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"event_type": None}, "event_type is missing"),
        ({"data": None}, "data is not an object"),
        ({"data": {"quantity": "many"}}, "quantity"),
        ({"data": {"quantity": 2**63}}, "quantity"),
        ({"data_base64": "?"}, "data_base64 is not in base64"),
        ({"version": "first"}, "version"),
        ({"occurred_at": "yesterday"}, "occurred_at"),
        ({"occurred_at": "2025-06-15T15:06:41"}, "occurred_at"),
        ({"event_id": 7}, "event_id"),
    ],
)
def test_what_is_no_event_says_why(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(NotAnEvent, match=said):
        from_dict(described(**changes))


def test_a_cloudevent_says_the_same_in_its_own_words() -> None:
    assert to_cloudevent(LOADED) == {
        "specversion": "1.0",
        "id": LOADED.event_id,
        "source": "/default/ship/imo-9811000",
        "type": "tidemark.v1.CargoLoaded",
        "subject": "imo-9811000",
        "time": "2025-06-15T15:06:41.123456Z",
        "tenantid": "default",
        "aggregatetype": "ship",
        "aggregateversion": "3",
        "sequence": "0000000000000000005",
        "correlationid": LOADED.correlation_id,
        "causationid": LOADED.causation_id,
        "datacontenttype": "application/json",
        "data": {"item": "silk 絲", "quantity": 1_000_000_000, "port": "Rotterdam"},
    }


def test_a_cloudevent_of_an_unknown_message_carries_its_bytes() -> None:
    event = with_payload(b"\x0a\x03abc", "tidemark.v1.ShipSighted")
    event.ClearField("correlation_id")
    event.aggregate_id = "a/b"

    said = to_cloudevent(event)

    assert said["datacontenttype"] == "application/protobuf"
    assert said["data_base64"] == "CgNhYmM="
    assert said["source"] == "/default/ship/a%2Fb"
    assert not {"data", "correlationid"} & said.keys()
