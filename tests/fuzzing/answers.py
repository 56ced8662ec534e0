"""What an answer has to be, whatever was asked."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from google.rpc.status_pb2 import Status
from grpc import StatusCode

from shared import errors
from shared.errors import TidemarkError
from shared.rpc import ERROR_DOMAIN
from tests.services.commanding import Failure, failure_in

REASONS = {
    StatusCode.INVALID_ARGUMENT: r"INVALID_FIELD|UNKNOWN_COMMAND|MALFORMED_REQUEST",
    StatusCode.NOT_FOUND: r"\w+_NOT_FOUND",
    StatusCode.ALREADY_EXISTS: r"\w+_ALREADY_\w+",
    # The rules of each aggregate have reasons of their own.
    StatusCode.FAILED_PRECONDITION: r"[A-Z]+(_[A-Z]+)*",
    StatusCode.ABORTED: r"WRONG_VERSION",
    StatusCode.OUT_OF_RANGE: r"POSITION_BEYOND_HEAD",
    StatusCode.DATA_LOSS: r"LOG_DIVERGED",
    StatusCode.UNAVAILABLE: r"PROJECTION_BEHIND|LOG_BEHIND",
}
"""The statuses that input alone can lead to, with their reasons."""

CLASSES = {
    each.code: each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, TidemarkError) and hasattr(each, "code")
}

INSIDES = re.compile(
    r"Traceback|File \"|\.py\b|\.db\b|sqlite|/(tmp|home|root|usr|var|proc)/"
    r"|\b(SELECT|INSERT|UPDATE|PRAGMA|FROM|WHERE)\b"
)
"""What an operator may see and a caller must not."""

MAX_MESSAGE_CHARACTERS = 4096


@dataclass(frozen=True)
class Answer:
    """How a call ended.

    Args:
        code: its status.
        message: its sentence.
        status: the rich status, if there was one.
        responses: what came before.
        errors: of commands that were some of many in a request.
    """

    code: StatusCode
    message: str = ""
    status: Status | None = None
    responses: Sequence[bytes] = ()
    errors: Sequence[Status] = ()


@dataclass(frozen=True)
class Allowed:
    """What an answer may be.

    Args:
        fields: those that it may call invalid.
        reason: with which it has to refuse; None: it may also accept.
        may_wait: whether it may have waited in vain.
        plain: statuses that need no details.
    """

    fields: frozenset[str]
    reason: str | None = None
    may_wait: bool = False
    plain: frozenset[StatusCode] = frozenset()


def complaints(answer: Answer, allowed: Allowed) -> Iterator[str]:
    """What is wrong with an answer, in sentences."""
    failures = []
    rich = [answer.status, *answer.errors]
    for status in (each for each in rich if each is not None):
        try:
            failures.append(failure_in(status))
        except (AssertionError, ValueError):
            yield f"{status} has not the details of an error"
    yield from _of_the_end(answer, allowed)
    for failure in failures:
        yield from (f"{failure} {wrong}" for wrong in _wrong(failure, allowed))
    reasons = [failure.reason for failure in failures]
    if allowed.reason is not None and reasons != [allowed.reason]:
        yield f"{reasons or answer.code.name} instead of {allowed.reason}"


def _of_the_end(answer: Answer, allowed: Allowed) -> Iterator[str]:
    plain = {StatusCode.OK, *allowed.plain}
    if allowed.may_wait:
        plain.add(StatusCode.DEADLINE_EXCEEDED)
    if answer.status is None and answer.code not in plain:
        yield f"{answer.code.name} {answer.message!r} has no details"
    if INSIDES.search(answer.message):
        yield f"{answer.message!r} shows the insides of the service"


def _wrong(failure: Failure, allowed: Allowed) -> Iterator[str]:
    if not re.fullmatch(REASONS.get(failure.code, r"(?!)"), failure.reason):
        yield "is not in the table"
        return
    if failure.reason == "PROJECTION_BEHIND" and not allowed.may_wait:
        yield "though there was nothing to wait for"
    if failure.domain != ERROR_DOMAIN:
        yield "is of another domain"
    if not 0 < len(failure.message) <= MAX_MESSAGE_CHARACTERS:
        yield "is no sentence"
    if INSIDES.search(str(failure)):
        yield "shows the insides of the service"
    if bool(failure.fields) != (failure.reason == "INVALID_FIELD"):
        yield "names fields, or none, against its reason"
    if not allowed.fields.issuperset(failure.fields):
        yield f"names fields other than {sorted(allowed.fields)}"
    if len(failure.preconditions) != (failure.code is StatusCode.FAILED_PRECONDITION):
        yield "has preconditions, or none, against its code"
    [error] = [each for code, each in CLASSES.items() if code == failure.code.value[0]]
    if (failure.retry_after is None) != (error.retry_after is None):
        yield "says when to retry, or not, against its code"
