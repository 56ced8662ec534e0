"""What the queries of a history ask for."""

from collections.abc import Callable, Iterator
from typing import Any

from shared.log.log import AggregateKey
from tests.history.commands import is_command
from tests.history.moments import Span
from tests.history.recorded import Call, Failure, History, Replayed, Unknown
from tests.history.timeline import Timeline
from tidemark.v1.query_pb2 import AsOf, ReplayRequest
from tidemark.v1.ship_pb2 import GetShipRequest
from tidemark.v1.user_pb2 import GetUserRequest, ListBalanceChangesRequest

VisibleBy = Callable[[float], int]
"""The last position that anybody can have seen by a time."""


def answered(history: History, timeline: Timeline) -> Iterator[tuple[Call, Any]]:
    """The queries that were answered with one message, and the answers.

    Those of a position that the log does not have are left out: there is nothing to compare with.
    """
    for call in history.calls:
        answer: Any = call.answer
        if is_command(call) or isinstance(answer, Failure | Unknown | Replayed):
            continue
        if answer.position <= timeline.head:
            yield call, answer


def aggregate_in(call: Call) -> AggregateKey | None:
    """The one aggregate that is asked for; None: many are."""
    match call.request:
        case ReplayRequest(aggregate_type=kind, aggregate_id=aggregate_id):
            return AggregateKey(call.tenant_id, kind, aggregate_id)
        case GetShipRequest(ship_id=ship_id):
            return AggregateKey(call.tenant_id, "ship", ship_id)
        case GetUserRequest(user_id=user_id) | ListBalanceChangesRequest(user_id=user_id):
            return AggregateKey(call.tenant_id, "user", user_id)
        case _:
            return None


def as_of_in(call: Call) -> AsOf | None:
    """The moment that is asked for; None: now."""
    match call.request:
        case ReplayRequest() as request if request.HasField("until"):
            return request.until
        case GetShipRequest() | GetUserRequest() as request if request.HasField("as_of"):
            return request.as_of
        case _:
            return None


def heads_of(call: Call, visible_by: VisibleBy) -> Span:
    """What may have been the head of the server when it answered."""
    least = call.request.min_position  # type: ignore[attr-defined]  # every query has it
    return Span(least, max(least, visible_by(call.ended)))
