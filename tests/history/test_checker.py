"""For each invariant, histories that break it, and what the checker says of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from shared.log.log import AggregateKey, chain
from tests.history.checker import check
from tests.history.recorded import Failure, Recovery, Replayed, Unknown
from tests.history.story import Story
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.event_pb2 import EventFilter, RecordedEvent
from tidemark.v1.query_pb2 import AsOf, ReplayRequest, ReplayResponse
from tidemark.v1.ship_pb2 import (
    SHIP_STATUS_DOCKED,
    CargoLoaded,
    DepartShip,
    DockShip,
    GetShipRequest,
    GetShipResponse,
    ListShipsRequest,
    ListShipsResponse,
    LoadCargo,
    RegisterShip,
    Ship,
    ShipDocked,
    ShipRegistered,
    WatchShipRequest,
    WatchShipResponse,
)
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    DeleteUser,
    UserBalanceChanged,
    UserCreated,
)

EVER = AggregateKey("red", "ship", "ever")
ANN = AggregateKey("red", "user", "ann")
REGISTER = RegisterShip(ship_id="ever", name="Ever")
DOCK = DockShip(ship_id="ever", port="Oslo")
LOAD = LoadCargo(ship_id="ever", item="tea", quantity=3)
CREATE = CreateUser(user_id="ann", username="Ann", balance=10)
PAY = ChangeUserBalance(user_id="ann", balance_change=-4)


def voyage() -> Story:
    """A ship and a user of one tenant, and a ship of the same id of another."""
    story = Story()
    for command in (REGISTER, DOCK, LOAD, CREATE, PAY):
        story.does(command)
    story.does(REGISTER, "blue")
    return story


def receipt(story: Story, number: int) -> CommandReceipt:
    answer = story.history.calls[number].answer
    assert isinstance(answer, CommandReceipt)
    return answer


def broken(story: Story) -> list[int]:
    """The invariants that a history breaks, most telling first, each once."""
    return list(dict.fromkeys(each.invariant for each in story.violations()))


def first(story: Story) -> tuple[int, str]:
    violation = story.violations()[0]
    return violation.invariant, violation.sentence


def test_a_history_of_kept_promises_passes() -> None:
    story = voyage()
    story.does(ChangeUserBalance(user_id="ann", balance_change=-100))
    story.does(DOCK, answer=Unknown("cut off"))
    repeated = CommandReceipt()
    repeated.CopyFrom(receipt(story, 1))
    repeated.duplicate = True
    story.says(story.history.calls[1].request, repeated)
    ship = story.timeline.state_at(EVER, story.head)
    story.says(GetShipRequest(ship_id="ever"), GetShipResponse(ship=ship, position=story.head))
    story.is_followed()
    story.is_followed("red")
    story.is_followed("red", EventFilter(aggregate_ids=["ann"]))
    story.is_watched(
        WatchShipRequest(ship_id="ever"), WatchShipResponse(ship=ship, position=story.head)
    )
    page = ListShipsResponse(ships=[ship], position=story.head)
    story.is_shown(ListShipsRequest(), page, page)

    assert story.violations() == []


class Test1AcknowledgedEventsStay:
    def test_a_receipt_of_an_event_that_is_not_there(self) -> None:
        story = voyage()
        story.records.pop()

        command_id = receipt(story, 5).command_id
        sentence = f"Command {command_id} of client was acknowledged at position 6, where the log"
        assert first(story) == (1, f"{sentence} has nothing")

    def test_a_receipt_of_somebody_elses_event(self) -> None:
        story = voyage()
        receipt(story, 4).position = 1

        assert first(story)[0] == 1
        assert "ShipRegistered of ship ever of red (version 1, position 1)" in first(story)[1]

    def test_a_receipt_of_another_version(self) -> None:
        story = voyage()
        receipt(story, 2).version = 9

        assert broken(story) == [1]

    def test_an_event_that_was_delivered_differently(self) -> None:
        story = voyage()
        subscription = story.is_followed()
        event = RecordedEvent.FromString(story.records[0])
        event.actor = "somebody"
        delivery = subscription.connections[0][0]
        changed = (event.SerializeToString(), *delivery.events[1:])
        subscription.connections[0][0] = replace(delivery, events=changed)

        assert broken(story) == [1]

    def test_an_event_that_was_replayed_differently(self) -> None:
        story = voyage()
        event = RecordedEvent.FromString(story.records[0])
        event.correlation_id = "another"
        request = ReplayRequest(aggregate_type="ship", aggregate_id="ever")
        story.says(request, Replayed((ReplayResponse(event=event),)))

        assert broken(story) == [1]


class Test2RefusedCommandsWroteNothing:
    def test_a_refused_command_that_took_effect(self) -> None:
        story = voyage()
        call = story.history.calls[1]
        refusal = Failure(grpc.StatusCode.UNAVAILABLE, "DRAINING")
        story.history.calls[1] = replace(call, answer=refusal)

        assert first(story)[0] == 2
        assert "was answered with DRAINING, and yet there is ShipDocked" in first(story)[1]

    def test_an_event_that_nobody_asked_for(self) -> None:
        story = voyage()
        story.writes(ShipDocked(port="Kiel"), EVER, 4)

        assert first(story)[1].startswith("Nobody asked for ShipDocked of ship ever of red")

    def test_an_unanswered_command_without_an_id_explains_one_event_only(self) -> None:
        story = voyage()
        story.says(DOCK, Unknown("cut off"))
        story.writes(ShipDocked(port="Oslo"), EVER, 4)
        assert broken(story) == []

        story.writes(ShipDocked(port="Oslo"), EVER, 5)
        assert broken(story) == [2]

    def test_an_event_of_other_content_than_the_commands(self) -> None:
        story = voyage()
        answer = story.does(DOCK, answer=Unknown("cut off"), command_id="some-id")
        story.writes(ShipDocked(port="Kiel"), EVER, 4, "some-id")

        assert isinstance(answer, Unknown)
        assert broken(story) == [2]

    def test_a_command_that_was_only_to_be_validated(self) -> None:
        story = voyage()
        story.does(DOCK, validate_only=True, command_id="")

        assert 2 in broken(story)


class Test3VersionsHaveNoGap:
    def test_a_version_is_left_out(self) -> None:
        story = voyage()
        story.does(DOCK, answer=Unknown("cut off"), command_id="some-id")
        story.writes(ShipDocked(port="Oslo"), EVER, 5, "some-id")

        assert 3 in broken(story)

    def test_two_commands_win_the_same_version(self) -> None:
        story = voyage()
        story.does(DOCK, answer=Unknown("cut off"), command_id="some-id")
        story.writes(ShipDocked(port="Oslo"), EVER, 3, "some-id")

        assert "follows version 3" in first(story)[1]
        assert first(story)[0] == 3


class Test4CommandsAreWhole:
    def test_events_of_one_command_with_another_between_them(self) -> None:
        story = Story()
        story.writes(ShipRegistered(name="Ever"), EVER, 1, "one")
        story.writes(UserCreated(username="Ann"), ANN, 1, "other")
        story.writes(ShipDocked(port="Oslo"), EVER, 2, "one")

        assert 4 in broken(story)

    def test_events_of_one_command_for_two_aggregates(self) -> None:
        story = Story()
        story.writes(ShipRegistered(name="Ever"), EVER, 1, "one")
        story.writes(UserCreated(username="Ann"), ANN, 1, "one")

        assert 4 in broken(story)


class Test5PositionsFollowTime:
    def test_a_later_command_has_a_lower_position(self) -> None:
        story = voyage()
        calls = story.history.calls
        # Ann was there before the ship, by the log.
        calls[0], calls[3] = (
            replace(calls[0], invoked=calls[3].invoked, ended=calls[3].ended),
            replace(calls[3], invoked=calls[0].invoked, ended=calls[0].ended),
        )

        assert broken(story) == [5]


class Test6And7Subscriptions:
    def test_an_event_becomes_visible_behind_a_reader_at_the_head(self) -> None:
        story = voyage()
        subscription = story.is_followed("red")
        last = subscription.connections[1][-1]
        subscription.connections[1][-1] = replace(last, events=(), position=6, head_position=6)

        assert broken(story) == [6]

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
        subscription.connections[1].append(
            replace(subscription.connections[0][0], events=(), digest=b"")
        )

        assert broken(story) == [7]

    def test_a_replay_leaves_a_version_out(self) -> None:
        story = voyage()
        events = [RecordedEvent.FromString(story.records[number]) for number in (0, 2)]
        request = ReplayRequest(aggregate_type="ship", aggregate_id="ever")
        story.says(request, Replayed(tuple(ReplayResponse(event=each) for each in events)))

        assert broken(story) == [7]


class Test8ProjectionsAreTheFold:
    def test_a_state_that_was_not_so(self) -> None:
        story = voyage()
        ship = story.timeline.state_at(EVER, 2)
        story.says(GetShipRequest(ship_id="ever"), GetShipResponse(ship=ship, position=3))

        assert broken(story) == [8]

    def test_a_list_that_leaves_one_out(self) -> None:
        story = voyage()
        ship = story.timeline.state_at(EVER, 6)
        whole = ListShipsResponse(ships=[ship], position=6)
        story.is_shown(ListShipsRequest(), ListShipsResponse(position=6), whole)

        assert broken(story) == [8]
        assert "as kept by query: 0 rows instead of 1" in first(story)[1]

    def test_a_rebuild_that_changes_something(self) -> None:
        story = voyage()
        ship = story.timeline.state_at(EVER, 6)
        whole = ListShipsResponse(ships=[ship], position=6)
        changed = ListShipsResponse(ships=[ship], position=6)
        changed.ships[0].cargo["tea"] = 6
        request = ListShipsRequest(status=SHIP_STATUS_DOCKED)
        story.is_shown(request, whole, changed)

        assert broken(story) == [8]
        assert "as rebuilt by query: row 0" in first(story)[1]

    def test_a_page_that_lists_an_old_state(self) -> None:
        story = voyage()
        ship = story.timeline.state_at(EVER, 2)
        story.says(ListShipsRequest(), ListShipsResponse(ships=[ship], position=3))

        assert broken(story) == [8]

    def test_a_watch_that_goes_back(self) -> None:
        story = voyage()
        timeline = story.timeline
        shown = [
            WatchShipResponse(ship=timeline.state_at(EVER, position), position=position)
            for position in (3, 2)
        ]
        story.is_watched(WatchShipRequest(ship_id="ever"), *shown)

        assert broken(story) == [8]

    def test_a_replay_that_shows_another_state(self) -> None:
        story = voyage()
        response = ReplayResponse(event=RecordedEvent.FromString(story.records[0]))
        response.state.Pack(Ship(ship_id="ever", name="Given"))
        request = ReplayRequest(aggregate_type="ship", aggregate_id="ever", include_state=True)
        story.says(request, Replayed((response,)))

        assert broken(story) == [8]


class Test9OneCommandHasOneEffect:
    def test_a_command_takes_effect_twice(self) -> None:
        story = voyage()
        story.writes(ShipDocked(port="Oslo"), EVER, 4, receipt(story, 1).command_id)

        assert first(story)[0] == 9
        assert first(story)[1].endswith("took effect more than once: at (2, 7)")

    def test_a_command_gets_two_receipts(self) -> None:
        story = voyage()
        other = CommandReceipt(
            command_id=receipt(story, 1).command_id,
            aggregate_id="ever",
            version=3,
            position=3,
            duplicate=True,
        )
        story.says(story.history.calls[1].request, other)

        assert 9 in broken(story)

    def test_a_command_is_executed_for_the_first_time_twice(self) -> None:
        story = voyage()
        story.says(story.history.calls[1].request, receipt(story, 1))

        assert first(story)[0] == 9
        assert "was twice said to have been executed just now" in first(story)[1]

    @pytest.mark.parametrize(
        ("command", "code", "reason"),
        [
            (REGISTER, grpc.StatusCode.NOT_FOUND, "SHIP_NOT_FOUND"),
            (LOAD, grpc.StatusCode.FAILED_PRECONDITION, "SHIP_NOT_DOCKED"),
            (PAY, grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE"),
            (DOCK, grpc.StatusCode.FAILED_PRECONDITION, "COMMAND_ID_REUSED"),
            (DepartShip(ship_id="ever"), grpc.StatusCode.ABORTED, "WRONG_VERSION"),
        ],
        ids=lambda each: each if isinstance(each, str) else "",
    )
    def test_a_refusal_that_was_true_at_no_moment(
        self, command: Any, code: grpc.StatusCode, reason: str
    ) -> None:
        story = voyage()
        story.does(command, answer=Failure(code, reason))

        assert broken(story) == [9]

    def test_a_refusal_of_a_state_that_was_over_when_it_was_asked(self) -> None:
        story = Story()
        story.does(REGISTER)
        story.does(DOCK)
        refusal = Failure(grpc.StatusCode.FAILED_PRECONDITION, "SHIP_NOT_DOCKED")
        story.does(LOAD, answer=refusal)

        assert broken(story) == [9]

    def test_a_refusal_of_a_state_that_came_only_after_the_answer(self) -> None:
        story = Story()
        story.does(CREATE)
        refusal = Failure(grpc.StatusCode.FAILED_PRECONDITION, "USER_DELETED")
        story.does(PAY, answer=refusal)
        story.does(PAY)
        story.does(DeleteUser(user_id="ann"))

        assert broken(story) == [9]


class Test10QueriesShowTheirMoment:
    def test_an_answer_from_before_min_position(self) -> None:
        story = voyage()
        ship = story.timeline.state_at(EVER, 2)
        request = GetShipRequest(ship_id="ever", min_position=3)
        story.says(request, GetShipResponse(ship=ship, position=2))

        assert broken(story) == [10]

    @pytest.mark.parametrize(
        "as_of", [AsOf(position=2), AsOf(version=2), AsOf(time=Timestamp(seconds=2))], ids=str
    )
    def test_a_past_that_was_not_so(self, as_of: AsOf) -> None:
        story = voyage()
        ship = story.timeline.state_at(EVER, 3)
        request = GetShipRequest(ship_id="ever", as_of=as_of)
        story.says(request, GetShipResponse(ship=ship, position=6))

        assert broken(story) == [10]

    def test_something_that_was_there_is_not_found(self) -> None:
        story = voyage()
        absence = Failure(grpc.StatusCode.NOT_FOUND, "SHIP_NOT_FOUND")
        story.says(GetShipRequest(ship_id="ever", min_position=1), absence)

        assert broken(story) == [10]


class Test11TenantsNeverMeet:
    def test_another_tenants_event_is_delivered(self) -> None:
        story = voyage()
        story.is_followed().tenant_id = "red"

        assert 11 in broken(story)

    def test_another_tenants_event_is_replayed(self) -> None:
        story = voyage()
        event = RecordedEvent.FromString(story.records[5])
        request = ReplayRequest(aggregate_type="ship", aggregate_id="ever")
        story.says(request, Replayed((ReplayResponse(event=event),)))

        assert broken(story) == [11]

    def test_another_tenants_state_is_shown(self) -> None:
        story = voyage()
        ship = story.timeline.state_at(EVER._replace(tenant_id="blue"), 6)
        story.says(GetShipRequest(ship_id="ever"), GetShipResponse(ship=ship, position=6))
        story.says(ListShipsRequest(), ListShipsResponse(ships=[ship], position=6))

        assert [each.invariant for each in story.violations()] == [11, 11]


class Test12TheDomainIsObeyed:
    @pytest.mark.parametrize(
        "payloads",
        [
            (UserCreated(balance=1), UserBalanceChanged(balance_change=-2)),
            (UserCreated(balance=-1),),
            (UserCreated(), UserCreated()),
            (UserBalanceChanged(balance_change=1),),
        ],
    )
    def test_of_users(self, payloads: Sequence[Any]) -> None:
        story = Story()
        for version, payload in enumerate(payloads, 1):
            story.writes(payload, ANN, version)

        assert 12 in broken(story)

    @pytest.mark.parametrize(
        "payloads",
        [
            (ShipRegistered(), CargoLoaded(item="tea", quantity=1)),
            (ShipRegistered(), ShipDocked(port="Oslo"), CargoLoaded(item="tea", quantity=-1)),
            (ShipRegistered(), ShipRegistered()),
            (ShipDocked(port="Oslo"),),
        ],
    )
    def test_of_ships(self, payloads: Sequence[Any]) -> None:
        story = Story()
        for version, payload in enumerate(payloads, 1):
            story.writes(payload, EVER, version)

        assert 12 in broken(story)


class Test13TheChainVerifies:
    def test_a_digest_that_is_not_that_of_the_events(self) -> None:
        story = voyage()
        history = story.ends()
        history.log = replace(history.log, digest=bytes(32))

        assert [each.invariant for each in check(history)] == [13]

    def test_a_replica_that_lacks_the_last_event(self) -> None:
        story = voyage()
        history = story.ends()
        short = history.log.records[:-1]
        digest = story.timeline.digests[-2]
        history.replicas = [replace(history.log, server="query", records=short, digest=digest)]

        assert [each.invariant for each in check(history)] == [13]

    def test_a_replica_with_another_event(self) -> None:
        story = voyage()
        history = story.ends()
        other = (*history.log.records[:-1], history.log.records[0])
        digest = chain(story.timeline.digests[-2], history.log.records[0])
        history.replicas = [replace(history.log, server="query", records=other, digest=digest)]

        assert {each.invariant for each in check(history)} == {13}

    def test_a_subscriber_is_given_another_digest(self) -> None:
        story = voyage()
        subscription = story.is_followed()
        last = subscription.connections[1][-1]
        subscription.connections[1][-1] = replace(last, digest=bytes(32))

        assert broken(story) == [13]


class Test14EverythingComesBack:
    def test_too_late(self) -> None:
        story = voyage()
        story.history.recovery = Recovery(12.0, 10.0)

        assert first(story) == (14, "It took 12.0 s to recover, and 10 s are allowed")

    def test_with_something_missing(self) -> None:
        story = voyage()
        story.history.recovery = Recovery(1.0, 10.0, ("The query service is NOT_SERVING",))

        assert first(story) == (14, "The query service is NOT_SERVING")


@given(st.data())
def test_no_event_of_a_history_can_be_lost_doubled_moved_or_changed(data: st.DataObject) -> None:
    story = voyage()
    story.is_followed()
    index = data.draw(st.integers(0, len(story.records) - 1))
    record = story.records[index]
    match data.draw(st.sampled_from(["lose", "double", "move", "change"])):
        case "lose":
            del story.records[index]
        case "double":
            story.records.insert(index, record)
        case "move":
            other = data.draw(st.integers(0, len(story.records) - 1).filter(lambda n: n != index))
            story.records[index], story.records[other] = story.records[other], record
        case "change":
            event = RecordedEvent.FromString(record)
            event.correlation_id += "!"
            story.records[index] = event.SerializeToString()

    assert story.violations() != []
