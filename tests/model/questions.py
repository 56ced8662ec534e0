"""What clients ask a query service; `tests.history` knows what they may be told, given the log."""

import re
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from shared.errors import NotFound, TidemarkError, Unavailable
from tests.history.on_lists import lists_are_true
from tests.history.on_states import absences_are_true, states_are_true
from tests.history.recorded import Call, Failure, History
from tests.history.timeline import Timeline
from tests.model.services import QueryService
from tests.model.wire import call_of

TIMEOUT_S = 3.0


@dataclass
class Question:
    """A query, and the answer.

    Args:
        tenant_id: whose.
        kind: of aggregates.
        request: of a list, all of which is one page, or of an aggregate.
        least: what the projection had reached by then: that cannot be unseen.
        answer: None: it was not asked yet.
    """

    tenant_id: str
    kind: str
    request: Any
    least: int = 0
    answer: Message | TidemarkError | None = None

    async def ask(self, service: QueryService) -> None:
        """Asks it."""
        projector = service.projectors[self.kind]
        self.least = min(projector.position, service.log.head.position)
        rpc = type(self.request).__name__.removesuffix("Request")
        query = getattr(service.queries[self.kind], re.sub(r"(?<!^)(?=[A-Z])", "_", rpc).lower())
        try:
            call = call_of(self.tenant_id, TIMEOUT_S)
            self.answer = await service.process.answer(query, self.request, call)
        except TidemarkError as error:
            self.answer = error

    def check(self, timeline: Timeline) -> str:
        """Looks whether the answer is true of the log, and returns what kind of answer it is."""
        answer: Any = self.answer
        match answer:
            case Unavailable(reason="PROJECTION_BEHIND"):
                has_moment = "as_of" in self.request.DESCRIPTOR.fields_by_name
                waits = self.request.min_position or (has_moment and self.request.HasField("as_of"))
                assert waits, f"{self} had nothing to wait for"
                return "behind"
            case NotFound(reason=reason):
                kind = "absent"
                answer = Failure(grpc.StatusCode.NOT_FOUND, reason)
            case TidemarkError() | None:
                raise AssertionError(f"No answer: {self}")
            case _:
                kind = type(answer).__name__.removesuffix("Response")
                assert answer.position <= timeline.head, self
                is_past = not kind.startswith("List") and self.request.HasField("as_of")
                assert is_past or answer.position >= self.least, self
        history = History(calls=[Call("", "", self.tenant_id, self.request, 0.0, 0.0, answer)])
        visible_by = lambda _time: timeline.head  # noqa: E731  # it is no more than that
        violations = [
            *states_are_true(history, timeline, visible_by),
            *absences_are_true(history, timeline, visible_by),
            *lists_are_true(history, timeline),
        ]
        assert not violations, violations
        return kind
