"""A history in which something did not occur proves nothing of it."""

from dataclasses import replace

from tests.history.coverage import counted, missing
from tests.history.recorded import Rebuild, Subscription, Unknown, Watch
from tests.history.story import Story
from tests.history.voyage import DOCK, LOAD, REGISTER, SOME_ID, voyage
from tidemark.v1.event_pb2 import EventFilter
from tidemark.v1.ship_pb2 import ListShipsRequest, ListShipsResponse, WatchShipRequest


def test_nothing_occurs_in_no_history() -> None:
    assert "a creation" in missing(Story().history)
    assert "a deleted user as it was" in missing(Story().history)


def test_what_occurs_is_not_missing() -> None:
    story = voyage()

    assert "a creation" not in missing(story.history)
    assert "a command for nothing" in missing(story.history)


def test_a_command_that_comes_again_when_it_is_possible() -> None:
    kind = "a command that was refused, and later was not"
    story = Story()
    story.does(REGISTER)
    story.does(LOAD, command_id=SOME_ID)
    story.does(DOCK)
    assert kind in missing(story.history)

    story.does(LOAD, command_id=SOME_ID)
    assert kind not in missing(story.history)


def test_a_command_id_of_two_tenants() -> None:
    kind = "a command_id of two tenants"
    story = Story()
    story.does(REGISTER, command_id=SOME_ID)
    story.does(REGISTER, command_id=SOME_ID)
    assert kind in missing(story.history)

    story.does(REGISTER, "blue", command_id=SOME_ID)
    assert kind not in missing(story.history)


def test_what_is_looked_at_in_the_end_is_not_missing_before_it() -> None:
    kinds = {"a replica that is compared", "a list that is compared, and again after a rebuild"}
    story = voyage()
    assert not kinds & set(missing(story.history))

    history = story.ends()
    history.replicas = []
    assert kinds <= set(missing(history))

    history.replicas = [replace(history.log, server="query")]
    story.is_shown(ListShipsRequest(), ListShipsResponse(), ListShipsResponse())
    assert not kinds & set(missing(history))


def test_a_query_during_a_rebuild_that_came_to_its_end() -> None:
    kind = "a query during a rebuild"
    story = Story()
    story.says(ListShipsRequest(), ListShipsResponse())
    [query] = story.history.calls
    rebuild = Rebuild("query", "ships", query.invoked, query.ended)

    story.history.rebuilds = [replace(rebuild, failure=Unknown("cancelled"))]
    assert kind in missing(story.history)

    story.history.rebuilds = [rebuild]
    assert kind not in missing(story.history)


def test_what_occurs_is_counted() -> None:
    story = Story()
    story.does(REGISTER)
    story.does(REGISTER, "blue")

    assert counted(story.history)["a creation"] == 2
    assert counted(story.history)["a command for nothing"] == 0


def test_a_subscriber_who_never_got_anything() -> None:
    story = voyage()
    story.is_followed()
    assert "a response to every subscriber" not in missing(story.history)

    story.history.subscriptions.append(Subscription("another", "*", EventFilter()))
    assert "a response to every subscriber" in missing(story.history)


def test_a_watch_that_never_showed_anything() -> None:
    story = voyage()
    assert "a state on every watch" not in missing(story.history)

    story.history.watches.append(Watch("watcher", "red", WatchShipRequest(ship_id="ever")))
    assert "a state on every watch" in missing(story.history)
