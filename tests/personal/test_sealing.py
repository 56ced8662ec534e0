from typing import Any

import pytest

from shared.errors import DataLoss
from shared.log.log import AggregateKey
from shared.personal.sealing import (
    DESTROYED,
    MARK,
    Place,
    is_keyed,
    is_sealed,
    keyed_fingerprint,
    new_key,
    seal,
    sealed,
    unseal_event,
    unseal_state,
)
from tests.log.builders import ship, user
from tidemark.v1.ship_pb2 import ShipDocked
from tidemark.v1.user_pb2 import User, UserCreated

KEY = bytes(range(32))
ADA = user("ada")
NAMES = ["A", "Ada", "李小龙", "x" * 31, "x" * 32, "x" * 256, "🚢" * 256]


def created(name: str = "Ada", aggregate: AggregateKey = ADA, version: int = 1) -> Any:
    return seal(UserCreated(username=name, balance=5), aggregate, version, KEY)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_what_is_personal_of_an_event_can_be_read_with_its_key_alone(name: str) -> None:
    event = created(name)
    assert event.balance == 5
    assert is_sealed(event.username)
    assert name not in event.username or len(name) == 1
    unseal_event(event, ADA, 1, KEY)
    assert event == UserCreated(username=name, balance=5)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_state_that_has_it_is_read_as_well(name: str) -> None:
    state = User(user_id="ada", username=created(name).username, version=7)
    unseal_state(state, ADA, KEY)
    assert state.username == name


def test_with_a_destroyed_key_it_is_empty_and_all_else_stays() -> None:
    event, state = created(), User(username=created().username, balance=5, version=1)
    unseal_event(event, ADA, 1, DESTROYED)
    unseal_state(state, ADA, DESTROYED)
    assert event == UserCreated(balance=5)
    assert state == User(balance=5, version=1)


def test_what_was_recorded_before_stays_as_it_is() -> None:
    event, state = UserCreated(username="Ada"), User(username="Ada", version=1)
    unseal_event(event, ADA, 1, DESTROYED)
    unseal_state(state, ADA, DESTROYED)
    assert (event.username, state.username) == ("Ada", "Ada")


def test_an_event_without_anything_personal_is_left_alone() -> None:
    docked = ShipDocked(port="Oslo")
    assert seal(docked, ship(), 2, KEY) is docked
    assert seal(UserCreated(balance=5), ADA, 1, KEY) == UserCreated(balance=5)


def test_the_payload_that_was_decided_is_not_touched() -> None:
    payload = UserCreated(username="Ada")
    seal(payload, ADA, 1, KEY)
    assert payload.username == "Ada"


def test_the_same_text_is_never_encrypted_to_the_same() -> None:
    assert created().username != created().username


def test_of_a_text_nothing_but_its_length_to_32_bytes_is_to_be_seen() -> None:
    lengths = {len(created("x" * length).username) for length in range(1, 33)}
    assert len(lengths) == 1


MOVED = {
    "to another tenant": (user("ada", "umbrella"), 1),
    "to another user": (user("bob"), 1),
    "to another kind": (AggregateKey("acme", "ship", "ada"), 1),
    "to another event": (ADA, 2),
}


@pytest.mark.parametrize(("aggregate", "version"), MOVED.values(), ids=MOVED)
def test_what_is_moved_elsewhere_cannot_be_read(aggregate: AggregateKey, version: int) -> None:
    event = created()
    with pytest.raises(DataLoss, match="LOG_CORRUPT"):
        unseal_event(event, aggregate, version, KEY)


def test_what_is_moved_to_another_field_cannot_be_read() -> None:
    event = UserCreated(username=sealed("Ada", Place(ADA, 1, "surname"), KEY))
    with pytest.raises(DataLoss, match="LOG_CORRUPT"):
        unseal_event(event, ADA, 1, KEY)


def test_a_state_cannot_have_what_was_recorded_after_it() -> None:
    state = User(username=created(version=3).username, version=2)
    with pytest.raises(DataLoss, match="LOG_CORRUPT"):
        unseal_state(state, ADA, KEY)


def test_another_key_reads_nothing() -> None:
    with pytest.raises(DataLoss, match="LOG_CORRUPT"):
        unseal_event(created(), ADA, 1, new_key())


@pytest.mark.parametrize("rest", ["", "A", "AAAA", "!!!!", "A" * 40, "é"])
def test_what_is_none_of_it_is_damage(rest: str) -> None:
    event, state = UserCreated(username=MARK + rest), User(username=MARK + rest, version=1)
    with pytest.raises(DataLoss, match="LOG_CORRUPT"):
        unseal_event(event, ADA, 1, KEY)
    with pytest.raises(DataLoss, match="LOG_CORRUPT"):
        unseal_state(state, ADA, KEY)


@pytest.mark.parametrize("place", range(len(MARK), 98, 7))
def test_every_changed_character_is_damage(place: int) -> None:
    event = created()
    other = "A" if event.username[place] != "A" else "B"
    event.username = event.username[:place] + other + event.username[place + 1 :]
    state = User(username=event.username, version=1)
    with pytest.raises(DataLoss, match="LOG_CORRUPT"):
        unseal_state(state, ADA, KEY)


def test_nothing_is_encrypted_twice() -> None:
    with pytest.raises(TypeError, match="what the state has"):
        seal(created(), ADA, 2, KEY)


def test_the_form_is_for_ever() -> None:
    stored = (
        "\x01sealed:AAAAAAAAAAFBQUFBQUFBQUFBQUHGHzHXOkxmqf_4OlWqgdBfv"
        "c47-I2LnEwNjN17vO41vjV7ko-4TUpMRg7qhM8P6nU"
    )
    event = UserCreated(username=stored)
    unseal_event(event, ADA, 1, KEY)
    assert event.username == "Ada 李"


def test_a_fingerprint_with_a_key_tells_commands_apart_and_is_no_mere_digest() -> None:
    digest, other = bytes(32), bytes([1]) * 32
    keyed = keyed_fingerprint(digest, KEY)
    assert keyed == keyed_fingerprint(digest, KEY)
    assert keyed not in {keyed_fingerprint(other, KEY), keyed_fingerprint(digest, new_key())}
    assert is_keyed(keyed)
    assert not is_keyed(digest)
    assert not is_keyed(b"")
