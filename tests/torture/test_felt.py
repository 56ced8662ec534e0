"""A fault that nobody felt while it was there proves nothing."""

from dataclasses import replace

import pytest
from grpc import StatusCode

from tests.history.recorded import Call, Failure, Unknown
from tests.torture.faults import FAULTS
from tests.torture.run import not_felt
from tidemark.v1.ship_pb2 import GetShipRequest, GetShipResponse

[HALF_OPEN] = [each for each in FAULTS if each.name == "half-open"]
[FULL_DISK] = [each for each in FAULTS if each.name == "full disk of query"]
LATE = Unknown("DEADLINE_EXCEEDED: Deadline Exceeded")
BEHIND = Failure(StatusCode.UNAVAILABLE, "PROJECTION_BEHIND")


STRUCK = (10.0, 20.0)


def call(answer: GetShipResponse | Failure | Unknown, invoked: float, ended: float) -> Call:
    return Call("reader", "query", "red", GetShipRequest(ship_id="ever"), invoked, ended, answer)


def test_an_answer_that_did_not_come_while_the_fault_was_there_is_felt() -> None:
    assert list(not_felt(HALF_OPEN, STRUCK, [call(LATE, 9, 11)])) == []
    assert list(not_felt(HALF_OPEN, STRUCK, [call(LATE, 19, 21)])) == []


@pytest.mark.parametrize(
    "seen",
    [
        call(LATE, 7, 9),
        call(LATE, 21, 22),
        call(Unknown("its client did not wait"), 11, 12),
        call(GetShipResponse(), 11, 12),
    ],
)
def test_what_came_of_something_else_is_not(seen: Call) -> None:
    [sentence] = not_felt(HALF_OPEN, STRUCK, [seen])
    assert "DEADLINE_EXCEEDED" in sentence


def test_to_be_behind_is_no_sign_of_a_fault() -> None:
    away = replace(HALF_OPEN, felt_as=("UNAVAILABLE",))

    assert list(not_felt(away, STRUCK, [call(Unknown("UNAVAILABLE: Socket closed"), 11, 12)])) == []
    assert list(not_felt(away, STRUCK, [call(BEHIND, 11, 12)])) != []


def test_what_is_to_be_felt_in_several_ways_has_to_be_in_each() -> None:
    both = replace(HALF_OPEN, felt_as=("DEADLINE_EXCEEDED", "DISK_FULL"))

    [sentence] = not_felt(both, STRUCK, [call(LATE, 11, 12)])
    assert "DISK_FULL" in sentence


def test_reads_that_have_to_go_on_are_looked_for_within_the_fault() -> None:
    assert list(not_felt(FULL_DISK, STRUCK, [call(GetShipResponse(), 11, 12)])) == []
    assert list(not_felt(FULL_DISK, STRUCK, [call(GetShipResponse(), 9, 12)])) != []
    assert list(not_felt(FULL_DISK, STRUCK, [call(LATE, 11, 12)])) != []
