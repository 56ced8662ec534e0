"""Answers that no fault explains: a mistake in the program, or damage that nobody did.

What a client sees of a fault is that nobody answers, or the word that it may try again.
"""

from collections.abc import Iterator

import grpc

from tests.history.recorded import PASSING, Failure, History, Unknown
from tests.history.timeline import say_message

MISTAKES = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
DAMAGE = frozenset({grpc.StatusCode.DATA_LOSS})
OF_GRPC = "INTERNAL: Internal error from Core"
"""What gRPC for Python makes, in the client, of a connection that ends while a call begins."""

ABSENCE = frozenset({grpc.StatusCode.NOT_FOUND})


def unforeseen(history: History, *, is_damaged: bool = False) -> Iterator[str]:
    """A sentence for each of them.

    Args:
        history: of a run.
        is_damaged: whether somebody had damaged a log, so that a service may say so.
    """
    wrong = MISTAKES if is_damaged else MISTAKES | DAMAGE
    foreseen = PASSING | DAMAGE if is_damaged else PASSING
    for call in history.calls:
        if isinstance(call.answer, Failure | Unknown) and _is_one_of(call.answer, wrong):
            yield f"{say_message(call.request)} was answered with {_said(call.answer)}"
    wrong |= {grpc.StatusCode.OK}
    for what, end in _ends(history):
        if (isinstance(end, Failure) and end.code not in foreseen) or _is_one_of(end, wrong):
            yield f"{what} ended with {_said(end)}"


def _ends(history: History) -> Iterator[tuple[str, Failure | Unknown]]:
    """Of all that streams."""
    for subscription in history.subscriptions:
        for end in subscription.ends:
            yield f"{subscription.client}'s subscription", end
    for watch in history.watches:
        for connection in watch.connections:
            # What is not found is judged by whether it was there.
            if connection.end is not None and not _is_one_of(connection.end[1], ABSENCE):
                yield f"{watch.client}'s watch", connection.end[1]
    for rebuild in history.rebuilds:
        if rebuild.failure is not None:
            yield f"The rebuild of {rebuild.projection}", rebuild.failure


def _is_one_of(answer: Failure | Unknown, codes: frozenset[grpc.StatusCode]) -> bool:
    """An outcome that is unknown begins with the status that left it so."""
    if isinstance(answer, Failure):
        return answer.code in codes
    return answer.why != OF_GRPC and answer.why.partition(":")[0] in {code.name for code in codes}


def _said(answer: Failure | Unknown) -> str:
    if isinstance(answer, Failure):
        return f"{answer.code.name}: {answer.reason}"
    return answer.why
