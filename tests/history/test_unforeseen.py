"""What no fault explains is complained of, whatever else a run shows."""

from collections.abc import Callable

import pytest
from grpc import StatusCode

from tests.history.recorded import Failure, History, Rebuild, Subscription, Unknown, Watch, Watching
from tests.history.story import Story
from tests.history.unforeseen import OF_GRPC, unforeseen
from tests.history.voyage import DOCK, voyage
from tidemark.v1.event_pb2 import EventFilter
from tidemark.v1.ship_pb2 import GetShipRequest, WatchShipRequest

AWAY = Failure(StatusCode.UNAVAILABLE, "DRAINING")
CUT_OFF = Unknown("UNAVAILABLE: Socket closed")
MISTAKE = Failure(StatusCode.INTERNAL, "INTERNAL")
LOST = Failure(StatusCode.DATA_LOSS, "LOG_CORRUPT")
NOT_THERE = Failure(StatusCode.NOT_FOUND, "SHIP_NOT_FOUND")

End = Failure | Unknown
Seen = Callable[[End], History]


def subscribed(end: End) -> History:
    subscription = Subscription("subscriber", "*", EventFilter(), ends=[end])
    return History(subscriptions=[subscription])


def watched(end: End) -> History:
    watch = Watch("watcher", "red", WatchShipRequest(ship_id="ever"), [Watching(0, end=(1.0, end))])
    return History(watches=[watch])


def rebuilt(end: End) -> History:
    return History(rebuilds=[Rebuild("query", "ships", 0.0, 1.0, end)])


def asked(end: End) -> History:
    story = Story()
    story.says(GetShipRequest(ship_id="ever"), end)
    return story.history


def commanded(end: End) -> History:
    story = Story()
    story.does(DOCK, answer=end)
    return story.history


EVERYWHERE = pytest.mark.parametrize("seen", [subscribed, watched, rebuilt, asked, commanded])
STREAMS = pytest.mark.parametrize("seen", [subscribed, watched, rebuilt])


def test_a_voyage_has_nothing_unforeseen() -> None:
    assert list(unforeseen(voyage().history)) == []


@EVERYWHERE
@pytest.mark.parametrize(
    "end", [AWAY, CUT_OFF, Unknown("its client did not wait"), Unknown(OF_GRPC)]
)
def test_to_be_told_to_try_again_is_foreseen(seen: Seen, end: End) -> None:
    assert list(unforeseen(seen(end))) == []


@EVERYWHERE
@pytest.mark.parametrize("end", [MISTAKE, Unknown("INTERNAL: INTERNAL"), Unknown("UNKNOWN: ")])
def test_a_mistake_in_the_program_is_not(seen: Seen, end: End) -> None:
    [sentence] = unforeseen(seen(end), is_damaged=True)
    assert "INTERNAL" in sentence or "UNKNOWN" in sentence


@EVERYWHERE
def test_a_loss_is_foreseen_only_where_somebody_did_damage(seen: Seen) -> None:
    assert list(unforeseen(seen(LOST), is_damaged=True)) == []
    [sentence] = unforeseen(seen(LOST))
    assert "DATA_LOSS: LOG_CORRUPT" in sentence


@STREAMS
def test_no_stream_may_be_told_that_it_asks_for_what_there_is_not(seen: Seen) -> None:
    [sentence] = unforeseen(seen(Failure(StatusCode.OUT_OF_RANGE, "LOG_DIVERGED")))
    assert "OUT_OF_RANGE: LOG_DIVERGED" in sentence


def test_no_subscription_ends_well() -> None:
    [sentence] = unforeseen(subscribed(Unknown("OK: it ended the stream")))
    assert "OK" in sentence


def test_what_a_watch_does_not_find_is_judged_elsewhere() -> None:
    assert list(unforeseen(watched(NOT_THERE))) == []
    assert list(unforeseen(subscribed(NOT_THERE))) != []
