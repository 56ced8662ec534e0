"""That a bad answer is found out."""

import pytest
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from shared.errors import (
    Conflict,
    DataLoss,
    Exhausted,
    Internal,
    InvalidArgument,
    InvalidFields,
    NotFound,
    Refused,
    TidemarkError,
    Unavailable,
    invalid_field,
)
from shared.rpc import status_of
from tests.fuzzing.answers import Allowed, Answer, complaints

PORT = Allowed(frozenset({"port"}))
BAD_PORT = Allowed(frozenset({"port"}), reason="INVALID_FIELD")


def answered(error: TidemarkError) -> Answer:
    status = status_of(error)
    [code] = [each for each in StatusCode if each.value[0] == status.code]
    return Answer(code, status.message, status)


def without_details(code: StatusCode, message: str = "") -> Answer:
    return Answer(code, message)


GOOD = [
    (Answer(StatusCode.OK), PORT),
    (answered(invalid_field("port", "must not be empty")), PORT),
    (answered(invalid_field("port", "must not be empty")), BAD_PORT),
    (answered(InvalidArgument("MALFORMED_REQUEST", "Not a valid request")), PORT),
    (answered(NotFound("SHIP_NOT_FOUND", "There is no such ship")), PORT),
    (answered(Refused("SHIP_NOT_DOCKED", "Ship is not docked at any port")), PORT),
    (answered(Conflict("WRONG_VERSION", "Ship is at version 2", actual=2)), PORT),
    (
        answered(Unavailable("PROJECTION_BEHIND", "Not reached yet")),
        Allowed(frozenset(), may_wait=True),
    ),
    (without_details(StatusCode.DEADLINE_EXCEEDED), Allowed(frozenset(), may_wait=True)),
    (
        without_details(StatusCode.NOT_FOUND),
        Allowed(frozenset(), plain=frozenset({StatusCode.NOT_FOUND})),
    ),
    (
        Answer(StatusCode.OK, errors=[status_of(invalid_field("port", "must not be empty"))]),
        BAD_PORT,
    ),
]


@pytest.mark.parametrize(("answer", "allowed"), GOOD)
def test_a_good_answer_is_none_to_complain_of(answer: Answer, allowed: Allowed) -> None:
    assert list(complaints(answer, allowed)) == []


BAD = {
    "accepted": (Answer(StatusCode.OK), BAD_PORT),
    "refused for another reason": (answered(NotFound("SHIP_NOT_FOUND", "No")), BAD_PORT),
    "another field": (answered(invalid_field("name", "must not be empty")), PORT),
    "two fields": (
        answered(
            InvalidFields(
                *invalid_field("port", "is wrong").violations,
                *invalid_field("name", "is wrong").violations,
            )
        ),
        BAD_PORT,
    ),
    "no field": (answered(InvalidArgument("INVALID_FIELD", "Something is wrong")), PORT),
    "unforeseen": (answered(Internal()), PORT),
    "no reason": (without_details(StatusCode.INVALID_ARGUMENT, "No"), PORT),
    "gRPC's own": (without_details(StatusCode.UNKNOWN, "Unexpected <class 'KeyError'>"), PORT),
    "late": (without_details(StatusCode.DEADLINE_EXCEEDED), PORT),
    "waited for nothing": (answered(Unavailable("PROJECTION_BEHIND", "Not yet")), PORT),
    "broken": (answered(Unavailable("PROJECTION_FAULTED", "It has a fault")), PORT),
    "damaged": (answered(DataLoss("LOG_CORRUPT", "The history is damaged")), PORT),
    "exhausted": (answered(Exhausted("TOO_MANY_CALLS", "Too many calls at once")), PORT),
    "a reason of another code": (answered(NotFound("WRONG_VERSION", "It is another")), PORT),
    "a traceback": (
        answered(Refused("SHIP_NOT_DOCKED", "Traceback (most recent call last)")),
        PORT,
    ),
    "SQL": (answered(NotFound("SHIP_NOT_FOUND", "SELECT state: no such column")), PORT),
    "a path": (answered(NotFound("SHIP_NOT_FOUND", "unable to open /var/data/x")), PORT),
    "no sentence": (answered(NotFound("SHIP_NOT_FOUND", "")), PORT),
    "a bad error of one of many": (
        Answer(StatusCode.OK, errors=[status_of(Internal())]),
        PORT,
    ),
    "an empty error of one of many": (
        Answer(StatusCode.OK, errors=[Status(code=code_pb2.NOT_FOUND)]),
        PORT,
    ),
}


@pytest.mark.parametrize(("answer", "allowed"), BAD.values(), ids=BAD.keys())
def test_a_bad_answer_is_found_out(answer: Answer, allowed: Allowed) -> None:
    assert list(complaints(answer, allowed)) != []
