"""For each invariant of the log and of commands, histories that break it, and what is said of them.

Those of readers and of queries are in `test_readers_checked` and `test_queries_checked`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.aggregates.aggregate import pack
from shared.log.log import AggregateKey, chain
from tests.history.checker import check
from tests.history.commands import context_of
from tests.history.on_domain import the_domain_is_obeyed
from tests.history.recorded import Failure, Recovery, Unknown
from tests.history.story import Story
from tests.history.timeline import Moment
from tests.history.voyage import (
    ANN,
    CREATE,
    DELETE,
    DEPART,
    DOCK,
    EVER,
    LOAD,
    PAY,
    REGISTER,
    SOME_ID,
    broken,
    first,
    receipt,
    refused,
    repeated,
    voyage,
)
from tests.services.commanding import of
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.event_pb2 import Checkpoint, EventFilter, RecordedEvent
from tidemark.v1.ship_pb2 import (
    CargoLoaded,
    DockShip,
    GetShipRequest,
    GetShipResponse,
    ListShipsRequest,
    ListShipsResponse,
    RegisterShip,
    ShipDocked,
    ShipRegistered,
    WatchShipRequest,
    WatchShipResponse,
)
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    EraseUser,
    UserBalanceChanged,
    UserCreated,
    UserDeleted,
    UserErased,
)

PLUS_ONE = ChangeUserBalance(user_id="ann", balance_change=1)


def test_a_history_of_kept_promises_passes() -> None:
    story = voyage()
    story.does(ChangeUserBalance(user_id="ann", balance_change=-100))
    story.does(DOCK, answer=Unknown("cut off"))
    story.says(story.history.calls[1].request, repeated(receipt(story, 1)))
    ship = story.timeline.state_at(EVER, story.head)
    story.says(GetShipRequest(ship_id="ever"), GetShipResponse(ship=ship, position=story.head))
    story.is_followed()
    story.is_followed("red")
    story.is_followed("red", EventFilter(aggregate_ids=["ann"]))
    story.is_watched(
        WatchShipRequest(ship_id="ever"), [WatchShipResponse(ship=ship, position=story.head)]
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

    def test_a_receipt_of_another_command(self) -> None:
        story = voyage()
        story.does(DEPART, answer=repeated(receipt(story, 2)))

        assert first(story)[0] == 1
        assert "was acknowledged with the receipt of command" in first(story)[1]

    def test_two_receipts_that_changed_places(self) -> None:
        story = voyage()
        calls = story.history.calls
        calls[2], calls[4] = (
            replace(calls[2], ended=calls[4].ended, answer=calls[4].answer),
            replace(calls[4], invoked=calls[2].invoked, answer=calls[2].answer),
        )

        assert [each.invariant for each in story.violations()] == [1, 1]

    def test_a_command_without_an_id_gets_the_receipt_of_one_that_has_an_id(self) -> None:
        story = voyage()
        story.says(LOAD, receipt(story, 2))

        assert first(story)[0] == 1

    def test_a_receipt_of_an_aggregate_that_the_command_was_not_for(self) -> None:
        story = voyage()
        command_id = receipt(story, 3).command_id
        request = of("ann", RegisterShip(name="Ann"), command_id=command_id)
        story.history.calls[3] = replace(story.history.calls[3], request=request)

        assert first(story)[0] == 1
        assert first(story)[1].endswith("(version 1, position 4), which it was not for")

    def test_a_receipt_under_an_id_that_the_client_spelled_differently(self) -> None:
        story = voyage()
        command_id = story.new_id()
        story.writes(ShipDocked(port="Oslo"), EVER, 4, command_id)
        answer = CommandReceipt(command_id=command_id, aggregate_id="ever", version=4, position=7)
        story.says(of("ever", DOCK, command_id=f"{{{command_id.upper()}}}"), answer)

        assert story.violations() == []


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

    def test_an_unanswered_creation_explains_one_of_whatever_id(self) -> None:
        story = voyage()
        story.says(RegisterShip(name="New"), Unknown("cut off"))
        story.writes(ShipRegistered(name="New"), EVER._replace(aggregate_id="made-up"), 1)
        assert broken(story) == []

        story.writes(ShipRegistered(name="New"), EVER._replace(aggregate_id="another"), 1)
        assert broken(story) == [2]

    def test_an_unanswered_command_explains_nothing_that_somebody_knew_before_it_was_sent(
        self,
    ) -> None:
        story = voyage()
        story.writes(ShipDocked(port="Oslo"), EVER, 4)
        ship = story.timeline.state_at(EVER, 7)
        story.says(GetShipRequest(ship_id="ever"), GetShipResponse(ship=ship, position=7))
        story.says(DOCK, Unknown("cut off"))

        assert first(story)[1].startswith("Nobody asked for ShipDocked of ship ever of red")

    def test_a_command_is_executed_at_another_version_than_was_expected(self) -> None:
        story = voyage()
        story.does(DOCK, expected_version=3)
        assert broken(story) == []

        context_of(story.history.calls[6]).expected_version = 1
        assert broken(story) == [2]

    def test_an_event_without_the_correlation_id_of_its_command(self) -> None:
        story = voyage()
        story.does(DOCK, correlation_id="journey")
        assert broken(story) == []

        context_of(story.history.calls[6]).correlation_id = "another"
        assert broken(story) == [2]

    def test_a_command_that_was_never_sent_but_as_a_repetition(self) -> None:
        story = voyage()
        receipt(story, 2).duplicate = True

        assert broken(story) == [2]
        assert "was never sent but as a repetition" in first(story)[1]

    def test_an_event_of_other_content_than_the_commands(self) -> None:
        story = voyage()
        answer = story.does(DOCK, answer=Unknown("cut off"), command_id=SOME_ID)
        story.writes(ShipDocked(port="Kiel"), EVER, 4, SOME_ID)

        assert isinstance(answer, Unknown)
        assert broken(story) == [2]

    def test_a_command_that_was_only_to_be_validated(self) -> None:
        story = voyage()
        story.does(DOCK, validate_only=True, command_id="")
        assert 2 in broken(story)

    def test_a_command_that_was_only_to_be_validated_under_an_id(self) -> None:
        story = voyage()
        story.does(DOCK, validate_only=True)

        assert 2 in broken(story)


class Test3VersionsHaveNoGap:
    def test_a_version_is_left_out(self) -> None:
        story = voyage()
        story.does(DOCK, answer=Unknown("cut off"), command_id=SOME_ID)
        story.writes(ShipDocked(port="Oslo"), EVER, 5, SOME_ID)

        assert 3 in broken(story)

    def test_two_commands_win_the_same_version(self) -> None:
        story = voyage()
        story.does(DOCK, answer=Unknown("cut off"), command_id=SOME_ID)
        story.writes(ShipDocked(port="Oslo"), EVER, 3, SOME_ID)

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


class TestErasures:
    def test_a_user_who_is_erased_keeps_all_but_the_name(self) -> None:
        story = Story()
        story.does(CREATE)
        story.does(EraseUser(user_id="ann"))
        story.does(PAY)

        assert broken(story) == []

    def test_a_user_who_is_erased_again(self) -> None:
        story = Story()
        story.does(CREATE)
        story.does(EraseUser(user_id="ann"))
        story.writes(UserErased(), ANN, 3)

        assert 12 in broken(story)


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

    def test_a_command_whose_receipt_came_only_when_it_was_repeated(self) -> None:
        story = voyage()
        call, answer = story.history.calls[3], repeated(receipt(story, 3))
        story.history.calls[3] = replace(call, invoked=100, ended=101, answer=Unknown("cut off"))
        story.history.calls.append(replace(call, invoked=102, ended=103, answer=answer))

        assert broken(story) == [5]


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

    def test_another_command_under_an_id_gets_the_receipt_of_the_first(self) -> None:
        story = voyage()
        answer = repeated(receipt(story, 1))
        other = DockShip(ship_id="ever", port="Kiel")
        story.does(other, answer=answer, command_id=answer.command_id)

        assert broken(story) == [9]
        assert "was answered with the receipt of another command under its id" in first(story)[1]

    def test_a_command_without_an_id_is_called_a_repetition(self) -> None:
        story = voyage()
        position = story.writes(ShipDocked(port="Oslo"), EVER, 4, SOME_ID)
        answer = CommandReceipt(
            command_id=SOME_ID, aggregate_id="ever", version=4, position=position
        )
        story.says(DOCK, answer)
        assert broken(story) == []

        story.says(DOCK, repeated(answer))
        assert broken(story) == [9]


class Test9RepetitionsAreKnown:
    def test_a_repetition_is_called_another_command(self) -> None:
        story = voyage()
        story.says(story.history.calls[1].request, refused("COMMAND_ID_REUSED"))

        assert broken(story) == [9]
        assert first(story)[1].endswith("and it was the same command")

    def test_a_command_is_called_another_one_under_an_id_that_nobody_had_used(self) -> None:
        story = voyage()
        story.does(DOCK, answer=refused("COMMAND_ID_REUSED"))

        assert broken(story) == [9]

    def test_a_command_is_called_another_one_before_the_other_was_sent(self) -> None:
        story = voyage()
        story.does(DEPART, answer=refused("COMMAND_ID_REUSED"), command_id=SOME_ID)
        story.does(DOCK, command_id=SOME_ID)

        assert broken(story) == [9]
        assert first(story)[1].endswith("which was not asked for yet")

    def test_another_command_under_an_id_is_refused(self) -> None:
        story = voyage()
        command_id = receipt(story, 1).command_id
        story.does(DEPART, answer=refused("COMMAND_ID_REUSED"), command_id=command_id)

        assert broken(story) == []

    def test_a_command_is_refused_after_it_was_known_to_have_taken_effect(self) -> None:
        story = voyage()
        payment = ChangeUserBalance(user_id="ann", balance_change=-6)
        story.does(payment, answer=Unknown("cut off"), command_id=SOME_ID)
        story.writes(UserBalanceChanged(balance_change=-6), ANN, 3, SOME_ID)
        story.does(DOCK)
        story.does(payment, answer=refused("INSUFFICIENT_BALANCE"), command_id=SOME_ID)

        assert broken(story) == [9]
        assert "after it had caused UserBalanceChanged of user ann" in first(story)[1]

    def test_a_refused_command_may_come_again_under_its_id(self) -> None:
        story = Story()
        story.does(REGISTER)
        story.does(LOAD, command_id=SOME_ID)
        assert story.history.calls[1].answer == refused("SHIP_NOT_DOCKED")
        story.does(DOCK)
        story.does(LOAD, command_id=SOME_ID)

        assert broken(story) == []

    def test_a_refusal_is_remembered(self) -> None:
        story = Story()
        story.does(REGISTER)
        story.does(LOAD, command_id=SOME_ID)
        story.does(DOCK)
        story.does(LOAD, answer=refused("SHIP_NOT_DOCKED"), command_id=SOME_ID)

        assert broken(story) == [9]


class Test9RefusalsAreTrue:
    @pytest.mark.parametrize(
        ("command", "code", "reason"),
        [
            (REGISTER, grpc.StatusCode.NOT_FOUND, "SHIP_NOT_FOUND"),
            (LOAD, grpc.StatusCode.FAILED_PRECONDITION, "SHIP_NOT_DOCKED"),
            (PAY, grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE"),
            (DEPART, grpc.StatusCode.ABORTED, "WRONG_VERSION"),
            (DOCK, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
            (REGISTER, grpc.StatusCode.NOT_FOUND, "SHIP_ALREADY_REGISTERED"),
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
        story.does(LOAD, answer=refused("SHIP_NOT_DOCKED"))

        assert broken(story) == [9]

    def test_a_refusal_of_a_state_that_came_only_after_the_answer(self) -> None:
        story = Story()
        story.does(CREATE)
        story.does(PAY, answer=refused("USER_DELETED"))
        story.does(DELETE)

        assert broken(story) == [9]

    def test_a_refusal_of_a_state_that_came_much_later_by_commands_without_an_id(self) -> None:
        story = Story()
        story.does(CREATE)
        story.does(PAY, answer=refused("USER_DELETED"))
        for version, payload in ((2, UserBalanceChanged(balance_change=1)), (3, UserDeleted())):
            command = PLUS_ONE if version == 2 else DELETE
            position = story.writes(payload, ANN, version)
            answer = CommandReceipt(
                command_id=RecordedEvent.FromString(story.records[-1]).causation_id,
                aggregate_id="ann",
                version=version,
                position=position,
            )
            story.says(command, answer)

        assert broken(story) == [9]

    def test_a_refusal_of_a_state_that_came_during_the_call(self) -> None:
        story = Story()
        story.does(CREATE)
        story.does(PAY, answer=refused("USER_DELETED"))
        story.does(DELETE)
        refusal = story.history.calls[1]
        story.history.calls[1] = replace(refusal, ended=story.history.calls[2].ended)

        assert broken(story) == []

    @pytest.mark.parametrize(("actual_version", "found"), [("3", []), ("2", [9]), ("", [9])])
    def test_a_wrong_version_comes_with_the_right_one(
        self, actual_version: str, found: list[int]
    ) -> None:
        story = voyage()
        answer = Failure(
            grpc.StatusCode.ABORTED, "WRONG_VERSION", {"actual_version": actual_version}
        )
        story.does(DEPART, answer=answer, expected_version=1)

        assert broken(story) == found


class Test9ValidationsAreTrue:
    def validated(self, story: Story, command: Any, **shown: Any) -> list[int]:
        answer = CommandReceipt(aggregate_id="ever", **shown)
        story.does(command, answer=answer, command_id="", validate_only=True)
        return broken(story)

    def test_a_command_is_only_validated(self) -> None:
        event = RecordedEvent(version=4, payload=pack(ShipDocked(port="Oslo")))

        assert self.validated(voyage(), DOCK, version=4, events=[event]) == []

    @pytest.mark.parametrize(
        ("command", "payload", "version"),
        [
            (ChangeUserBalance(user_id="ann", balance_change=-7), UserBalanceChanged(), 3),
            (DOCK, ShipDocked(port="Kiel"), 4),
            (DOCK, ShipDocked(port="Oslo"), 5),
        ],
        ids=str,
    )
    def test_it_is_said_to_do_what_it_would_not(
        self, command: Any, payload: Any, version: int
    ) -> None:
        event = RecordedEvent(version=version, payload=pack(payload))

        assert self.validated(voyage(), command, version=version, events=[event]) == [9]

    def test_a_refusal_of_what_would_be_possible(self) -> None:
        story = voyage()
        story.does(DOCK, answer=refused("SHIP_NOT_DOCKED"), validate_only=True)

        assert broken(story) == [9]


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

    def test_of_kinds_of_aggregates_and_events_that_nobody_knows(self) -> None:
        story = voyage()
        story.writes(ShipDocked(port="Oslo"), AggregateKey("red", "plane", "jumbo"), 1)
        story.writes(Checkpoint(), EVER, 4)

        sentences = [str(each) for each in story.violations() if each.invariant == 12]
        assert len(sentences) == 2
        assert "ShipDocked of plane jumbo of red" in sentences[0]
        assert "Checkpoint of ship ever of red" in sentences[1]

    @pytest.mark.parametrize(
        ("key", "version", "fields", "wrong"),
        [
            (EVER, 3, {"cargo": {"tea": 4}}, "the cargo is {'tea': 4} instead of {'tea': 3}"),
            (EVER, 2, {"current_port": "Kiel"}, "the ship is at 'Kiel' instead of 'Oslo'"),
            (ANN, 2, {"balance": 7}, "the balance 10 became 7 instead of 6"),
        ],
    )
    def test_of_a_fold_that_is_wrong(
        self, key: AggregateKey, version: int, fields: dict[str, Any], wrong: str
    ) -> None:
        timeline = voyage().timeline
        state = timeline.state(key, version)
        state.MergeFrom(type(state)(**fields))
        moment = Moment(timeline.moments[key][version - 1].position, state.SerializeToString())
        timeline.moments[key][version - 1] = moment

        assert next(the_domain_is_obeyed(timeline)).sentence.endswith(wrong)


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


class Test14EverythingComesBack:
    def test_too_late(self) -> None:
        story = voyage()
        story.history.recovery = Recovery(12.0, 10.0)

        assert first(story) == (14, "It took 12.0 s to recover, and 10 s are allowed")

    def test_with_something_missing(self) -> None:
        story = voyage()
        story.history.recovery = Recovery(1.0, 10.0, ("The query service is NOT_SERVING",))

        assert first(story) == (14, "The query service is NOT_SERVING")

    def test_a_command_is_put_off_for_ever(self) -> None:
        story = voyage()
        for _ in range(2):
            unavailable = Failure(grpc.StatusCode.UNAVAILABLE, "LOG_UNAVAILABLE")
            story.does(DOCK, answer=unavailable, command_id=SOME_ID)
        assert broken(story) == [14]
        assert "was put off 2 times, and never decided" in first(story)[1]

        story.does(DOCK, command_id=SOME_ID)
        assert broken(story) == []


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
