"""The states that are kept in memory."""

import pytest

from query_service.state_cache import ENTRY_BYTES, StateCache
from shared.log.log import AggregateKey
from tests.log.builders import user

ADA, BOB, EVE = user("ada"), user("bob"), user("eve")


def holding(cache: StateCache, *keys: AggregateKey) -> dict[AggregateKey, bytes | None]:
    """What it has of some aggregates."""
    found = {}
    for key in keys:
        try:
            found[key] = cache.peek(key)
        except KeyError:
            continue
    return found


def test_what_was_put_last_is_there() -> None:
    cache = StateCache()

    cache.put(ADA, b"old")
    cache.put(ADA, b"new")
    cache.put(BOB, None)

    assert (cache.get(ADA), cache.get(BOB)) == (b"new", None)


def test_what_was_never_put_is_not_known() -> None:
    cache = StateCache()

    for look in (cache.get, cache.peek):
        with pytest.raises(KeyError):
            look(ADA)


def test_beyond_its_bound_it_drops_what_was_not_asked_for() -> None:
    cache = StateCache(max_bytes=2 * (ENTRY_BYTES + 10))
    cache.put(ADA, bytes(10))
    cache.put(BOB, bytes(10))
    cache.get(ADA)

    cache.put(EVE, bytes(10))

    assert set(holding(cache, ADA, BOB, EVE)) == {ADA, EVE}


def test_a_state_that_grows_makes_others_go() -> None:
    cache = StateCache(max_bytes=2 * (ENTRY_BYTES + 10))
    cache.put(ADA, bytes(10))
    cache.put(BOB, bytes(10))

    cache.put(BOB, bytes(11))

    assert holding(cache, ADA, BOB) == {BOB: bytes(11)}


def test_a_state_in_place_of_another_takes_no_more_room() -> None:
    cache = StateCache(max_bytes=2 * (ENTRY_BYTES + 10))
    cache.put(BOB, bytes(10))

    for _ in range(100):
        cache.put(ADA, bytes(10))

    assert set(holding(cache, ADA, BOB)) == {ADA, BOB}


def test_what_is_larger_than_its_bound_is_not_kept() -> None:
    cache = StateCache(max_bytes=ENTRY_BYTES)

    cache.put(ADA, bytes(1))

    assert holding(cache, ADA) == {}
