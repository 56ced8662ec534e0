"""Histories of subscriptions, replays and watches: see `test_checker`."""

from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.history.recorded import Call, Delivery, Failure, Replayed, Subscription, Watching
from tests.history.story import Story
from tests.history.voyage import (
    ANN,
    DELETE,
    DOCK,
    EVER,
    broken,
    first,
    voyage,
)
from tests.services.caller import but
from tidemark.v1.event_pb2 import EventFilter, RecordedEvent
from tidemark.v1.query_pb2 import AsOf, ReplayRequest, ReplayResponse
from tidemark.v1.ship_pb2 import (
    GetShipRequest,
    GetShipResponse,
    Ship,
    WatchShipRequest,
    WatchShipResponse,
)
from tidemark.v1.user_pb2 import WatchUserRequest, WatchUserResponse

REPLAY = ReplayRequest(aggregate_type="ship", aggregate_id="ever")
WATCH = WatchShipRequest(ship_id="ever")
NOT_FOUND = Failure(grpc.StatusCode.NOT_FOUND, "SHIP_NOT_FOUND")


class Test1WhatWasReadStays:
    def test_an_event_that_was_delivered_differently(self) -> None:
        story = voyage()
        subscription = story.is_followed()
        event = RecordedEvent.FromString(story.records[0])
        event.actor = "somebody"
        delivery = subscription.connections[0][0]
        changed = (event.SerializeToString(), *delivery.events[1:])
        subscription.connections[0][0] = replace(delivery, events=changed)

        assert broken(story) == [1]

    @pytest.mark.parametrize("beyond", [{"position": 9, "head_position": 9}, {"head_position": 9}])
    def test_a_subscriber_is_told_of_more_than_the_log_has(self, beyond: dict[str, Any]) -> None:
        story = voyage()
        subscription = story.is_followed("red")
        last = subscription.connections[1][-1]
        subscription.connections[1][-1] = replace(last, **beyond)

        assert broken(story) == [1]
        assert first(story)[1] == "subscriber was told of position 9, and the log ends at 6"

    def test_a_watch_is_shown_more_than_the_log_has(self) -> None:
        story = voyage()
        story.is_watched(WATCH, [watched(story, 9)])

        assert broken(story) == [1]

    def test_an_event_that_was_replayed_differently(self) -> None:
        story = voyage()
        responses = replayed(story, 0, 1, 2)
        responses[0].event.correlation_id = "another"
        story.says(REPLAY, Replayed(tuple(responses)))

        assert broken(story) == [1]


class Test6NothingAppearsBehindAReader:
    def test_a_command_takes_effect_below_what_a_query_had_shown_when_it_was_sent(self) -> None:
        story = voyage()
        ship = story.timeline.state_at(EVER, 6)
        answer = GetShipResponse(ship=ship, position=6)
        before = story.history.calls[5].invoked - 0.5
        request = GetShipRequest(ship_id="ever")
        story.history.calls.append(Call("reader", "query", "red", request, 0.0, before, answer))

        assert broken(story) == [6]
        assert "was sent after reader was told of position 6" in first(story)[1]

    def test_an_event_becomes_visible_behind_a_subscriber_at_the_head(self) -> None:
        story = voyage()
        subscription = story.is_followed("red")
        last = subscription.connections[1][-1]
        subscription.connections[1][-1] = replace(last, events=(), position=6, head_position=6)

        assert broken(story) == [6]


class Test7SubscriptionsDeliverTheLog:
    def test_an_event_is_left_out(self) -> None:
        story = voyage()
        subscription = story.is_followed()
        delivery = subscription.connections[0][0]
        subscription.connections[0][0] = replace(delivery, events=delivery.events[:1])

        assert broken(story) == [7]

    def test_an_event_is_repeated_after_a_reconnect(self) -> None:
        story = voyage()
        subscription = story.is_followed()
        subscription.connections[1].insert(0, subscription.connections[0][-1])

        assert 7 in broken(story)

    def test_two_events_change_places(self) -> None:
        story = voyage()
        subscription = story.is_followed()
        delivery = subscription.connections[0][0]
        subscription.connections[0][0] = replace(delivery, events=delivery.events[::-1])

        assert broken(story) == [7]

    def test_an_event_that_the_filter_leaves_out(self) -> None:
        story = voyage()
        story.is_followed("red").event_filter.aggregate_ids.append("ann")

        assert broken(story) == [7]

    def test_a_checkpoint_goes_back(self) -> None:
        story = voyage()
        subscription = story.is_followed()
        subscription.connections[1].append(replace(subscription.connections[0][0], events=()))

        assert broken(story) == [7]

    def test_a_checkpoint_is_beyond_what_is_said_to_be_the_head(self) -> None:
        story = voyage()
        subscription = story.is_followed()
        subscription.connections[0][0] = replace(subscription.connections[0][0], head_position=1)

        assert broken(story) == [7]

    def test_the_events_of_one_journey(self) -> None:
        story = voyage()
        story.does(DOCK, correlation_id="journey")
        subscription = followed(story, 4, 7, event_filter=EventFilter(correlation_ids=["journey"]))
        assert len(subscription.connections[0][0].events) == 1
        assert broken(story) == []

        subscription.event_filter.correlation_ids[:] = ["another"]
        assert broken(story) == [7]

    @pytest.mark.parametrize(("seconds", "found"), [(5, []), (4, [6]), (6, [7])])
    def test_the_events_from_a_time_on(self, seconds: int, found: list[int]) -> None:
        story = voyage()
        # In this story an event comes every second.
        subscription = followed(story, 4, 6, from_time=Timestamp(seconds=seconds))
        subscription.after_position = 0

        assert broken(story) == found

    def test_the_events_from_the_head_on(self) -> None:
        story = voyage()
        subscription = followed(story, 4, 6, from_head=True)
        assert broken(story) == []

        subscription.after_position = 5
        assert broken(story) == [7]
        assert first(story)[1].endswith("again, or too late")

    def test_nothing_comes_yet_from_the_head_on(self) -> None:
        story = voyage()
        subscription = followed(story, 4, 6, from_head=True)
        [delivery] = subscription.connections[0]
        subscription.connections[0][0] = replace(delivery, events=())

        assert broken(story) == []

    def test_an_event_after_the_first_from_the_head_is_left_out(self) -> None:
        story = voyage()
        subscription = followed(story, 3, 6, from_head=True)
        delivery = subscription.connections[0][0]
        events = (delivery.events[0], delivery.events[2])
        subscription.connections[0][0] = replace(delivery, events=events)

        assert broken(story) == [6]


class Test7ReplaysAreWhole:
    @pytest.mark.parametrize(
        ("request_", "numbers"),
        [
            (but(REPLAY, min_position=3), [0]),
            (but(REPLAY, min_position=3), []),
            (REPLAY, [0, 2]),
            (REPLAY, [1, 2]),
            (but(REPLAY, after_version=1), [0, 1, 2]),
            (ReplayRequest(aggregate_id="ever", until=AsOf(position=1)), [0, 1]),
            (ReplayRequest(aggregate_id="ever", until=AsOf(position=2)), [0]),
            (ReplayRequest(aggregate_id="ever", until=AsOf(version=2)), [0, 1, 2]),
            (ReplayRequest(aggregate_id="ever", until=AsOf(version=9)), [0, 1, 2]),
            (ReplayRequest(aggregate_id="ever", until=AsOf(time=Timestamp(seconds=1))), [0, 1]),
            (REPLAY, [3, 4]),
        ],
        ids=lambda each: str(each).replace("\n", " "),
    )
    def test_a_replay_is_not_what_was_asked_for(
        self, request_: ReplayRequest, numbers: list[int]
    ) -> None:
        story = voyage()
        request = but(request_, aggregate_type="ship")
        story.says(request, Replayed(tuple(replayed(story, *numbers))))

        assert broken(story) == [7]

    @pytest.mark.parametrize(
        ("until", "numbers"),
        [
            (None, [0, 1, 2]),
            # A query service may be behind.
            (None, [0]),
            (AsOf(position=2), [0, 1]),
            (AsOf(version=1), [0]),
            (AsOf(time=Timestamp(seconds=2, nanos=1)), [0, 1]),
            (AsOf(time=Timestamp(seconds=2)), [0]),
        ],
        ids=lambda each: str(each).replace("\n", " "),
    )
    def test_a_replay_is_what_was_asked_for(self, until: AsOf | None, numbers: list[int]) -> None:
        story = voyage()
        request = ReplayRequest(aggregate_type="ship", aggregate_id="ever", until=until)
        story.says(request, Replayed(tuple(replayed(story, *numbers))))

        assert broken(story) == []

    def test_a_replay_of_another_aggregate_with_states(self) -> None:
        story = voyage()
        request = ReplayRequest(aggregate_type="ship", aggregate_id="none", include_state=True)
        story.says(request, Replayed(tuple(replayed(story, 0))))

        assert broken(story) == [7]

    def test_a_replay_that_shows_another_state(self) -> None:
        story = voyage()
        [response] = replayed(story, 0)
        response.state.Pack(Ship(ship_id="ever", name="Given"))
        story.says(but(REPLAY, include_state=True), Replayed((response,)))

        assert broken(story) == [8]

    def test_a_replay_that_shows_no_state(self) -> None:
        story = voyage()
        story.says(but(REPLAY, include_state=True), Replayed(tuple(replayed(story, 0))))

        assert broken(story) == [8]


class Test8WatchesMoveForward:
    def test_a_watch_goes_back(self) -> None:
        story = voyage()
        story.is_watched(WATCH, [watched(story, 3), watched(story, 2)])

        assert broken(story) == [8]

    def test_a_watch_goes_back_when_it_begins_anew(self) -> None:
        story = voyage()
        story.is_watched(WATCH, [watched(story, 3)], [watched(story, 2)])

        assert broken(story) == [10]

    def test_a_watch_shows_less_than_it_was_asked_for(self) -> None:
        story = voyage()
        story.is_watched(but(WATCH, min_position=3), [watched(story, 1), watched(story, 1)])

        assert broken(story) == [10]

    def test_a_watch_shows_what_was_not_so(self) -> None:
        story = voyage()
        story.is_watched(WATCH, [but(watched(story, 2), position=3)])

        assert broken(story) == [8]

    def test_a_watch_ends_with_a_deletion(self) -> None:
        story = voyage()
        story.does(DELETE)
        request = WatchUserRequest(user_id="ann")
        last, once_more = (watched_user(story, position) for position in (7, 7))
        story.is_watched(request, [watched_user(story, 5), last])
        assert broken(story) == []

        story.history.watches[0].connections[0].responses.append((100.0, once_more))
        assert broken(story) == [8]

    def test_a_watch_begins_with_what_was_deleted(self) -> None:
        story = voyage()
        story.does(DELETE)
        story.is_watched(WatchUserRequest(user_id="ann"), [watched_user(story, 7)])

        assert broken(story) == [8]

    def test_a_watch_does_not_find_what_is_there(self) -> None:
        story = voyage()
        story.is_watched(WATCH, [watched(story, 3)])
        ended = Watching(3, end=(100.0, NOT_FOUND))
        story.history.watches[0].connections.append(ended)

        assert broken(story) == [10]

    def test_a_watch_does_not_find_what_may_not_have_been_there_yet(self) -> None:
        story = voyage()
        story.is_watched(WATCH, [watched(story, 3)])
        story.history.watches[0].connections.insert(0, Watching(0, end=(0.5, NOT_FOUND)))

        assert broken(story) == []


class Test11TenantsNeverMeet:
    def test_another_tenants_event_is_delivered(self) -> None:
        story = voyage()
        story.is_followed().tenant_id = "red"

        assert 11 in broken(story)

    def test_another_tenants_event_is_replayed(self) -> None:
        story = voyage()
        story.says(REPLAY, Replayed(tuple(replayed(story, 5))))

        assert broken(story) == [11]


class Test13DigestsAreTheLogs:
    def test_a_subscriber_is_given_another_digest(self) -> None:
        story = voyage()
        subscription = story.is_followed()
        last = subscription.connections[1][-1]
        subscription.connections[1][-1] = replace(last, digest=bytes(32))

        assert broken(story) == [13]

    def test_a_subscriber_of_the_whole_log_is_given_no_digest(self) -> None:
        story = voyage()
        subscription = story.is_followed()
        last = subscription.connections[1][-1]
        subscription.connections[1][-1] = replace(last, digest=b"")

        assert first(story) == (13, "subscriber was given no digest at 6")


def replayed(story: Story, *numbers: int) -> list[ReplayResponse]:
    """Events of a log, whatever was asked for."""
    events = [RecordedEvent.FromString(story.records[number]) for number in numbers]
    return [ReplayResponse(event=event) for event in events]


def watched(story: Story, position: int) -> WatchShipResponse:
    return WatchShipResponse(ship=story.timeline.state_at(EVER, position), position=position)


def watched_user(story: Story, position: int) -> WatchUserResponse:
    return WatchUserResponse(user=story.timeline.state_at(ANN, position), position=position)


def followed(
    story: Story, start: int, end: int, event_filter: EventFilter | None = None, **how: Any
) -> Subscription:
    """A subscriber gets all that a filter selects from a start to an end, in one response."""
    wanted = event_filter or EventFilter()
    timeline = story.timeline
    events = tuple(
        record
        for record, event in zip(
            timeline.records[start:end], timeline.events[start:end], strict=True
        )
        if not wanted.correlation_ids or event.correlation_id in wanted.correlation_ids
    )
    digest = b"" if event_filter else timeline.digests[end]
    subscription = Subscription("subscriber", "*", wanted, after_position=start, **how)
    subscription.connections.append([Delivery(100.0, events, end, digest, end)])
    story.history.subscriptions.append(subscription)
    return subscription
