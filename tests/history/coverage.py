"""What really happened in a history: a run in which nothing went wrong proves nothing."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise

from tests.history.commands import RULES_OF, context_of
from tests.history.recorded import Call, Failure, History, Replayed, Unknown
from tidemark.v1.command_pb2 import CommandReceipt


def coverage(history: History) -> Mapping[str, int]:
    """How often each kind of thing occurred."""
    counts: Counter[str] = Counter(dict.fromkeys([*_COMMAND_KINDS, *_QUERY_KINDS, *_OTHERS], 0))
    for call in history.calls:
        is_command = call.request.DESCRIPTOR.full_name in RULES_OF
        for kind, occurred in (_COMMAND_KINDS if is_command else _QUERY_KINDS).items():
            counts[kind] += bool(occurred(call))
    for kind, count in _OTHERS.items():
        counts[kind] += count(history)
    return counts


def missing(history: History) -> list[str]:
    """The kinds of things that did not occur."""
    return [kind for kind, count in coverage(history).items() if not count]


def _reason(call: Call) -> str:
    return call.answer.reason if isinstance(call.answer, Failure) else ""


_COMMAND_KINDS: Mapping[str, Callable[[Call], bool]] = {
    "a command without command_id": lambda call: not context_of(call).command_id,
    "a command that was only validated": lambda call: context_of(call).validate_only,
    "a repeated command": lambda call: (
        isinstance(call.answer, CommandReceipt) and call.answer.duplicate
    ),
    "another command under the same id": lambda call: _reason(call) == "COMMAND_ID_REUSED",
    "a wrong expected_version": lambda call: _reason(call) == "WRONG_VERSION",
    "a right expected_version": lambda call: (
        context_of(call).HasField("expected_version") and isinstance(call.answer, CommandReceipt)
    ),
    "a creation": lambda call: isinstance(call.answer, CommandReceipt) and call.answer.version == 1,
    "a creation of what exists": lambda call: _reason(call).endswith(
        ("_ALREADY_EXISTS", "_ALREADY_REGISTERED")
    ),
    "a refusal by the rules": lambda call: (
        _reason(call)
        in {
            "INSUFFICIENT_BALANCE",
            "SHIP_NOT_DOCKED",
            "CARGO_NOT_ABOARD",
            "NOT_ENOUGH_CARGO",
        }
    ),
    "a command for nothing": lambda call: _reason(call).endswith("_NOT_FOUND"),
    "a command for a deleted user": lambda call: _reason(call) == "USER_DELETED",
    "an unknown outcome": lambda call: isinstance(call.answer, Unknown),
}


def _has_answer(call: Call) -> bool:
    return not isinstance(call.answer, Failure | Unknown)


def _asks(call: Call, field: str) -> bool:
    return field in call.request.DESCRIPTOR.fields_by_name and bool(getattr(call.request, field))


_QUERY_KINDS: Mapping[str, Callable[[Call], bool]] = {
    "a read with min_position": lambda call: _has_answer(call) and _asks(call, "min_position"),
    "a read as of a moment": lambda call: (
        _has_answer(call)
        and "as_of" in call.request.DESCRIPTOR.fields_by_name
        and call.request.HasField("as_of")
    ),
    "a replay": lambda call: isinstance(call.answer, Replayed) and len(call.answer.responses) > 1,
    "a list": lambda call: _has_answer(call) and call.request.DESCRIPTOR.name.startswith("List"),
}


def _concurrent_repetitions(history: History) -> int:
    calls = defaultdict(list)
    for call in history.calls:
        if call.request.DESCRIPTOR.full_name in RULES_OF and context_of(call).command_id:
            calls[call.tenant_id, context_of(call).command_id].append(call)
    return sum(
        any(later.invoked < earlier.ended for earlier, later in pairwise(attempts))
        for attempts in calls.values()
    )


def _shared_ids(history: History) -> int:
    tenants = defaultdict(set)
    for call in history.calls:
        if isinstance(call.answer, CommandReceipt):
            tenants[call.answer.aggregate_id].add(call.tenant_id)
    return sum(len(each) > 1 for each in tenants.values())


def _queries_during_rebuilds(history: History) -> int:
    spans = [(each.began, each.ended) for each in history.rebuilds]
    return sum(
        any(began <= call.ended and call.invoked <= ended for began, ended in spans)
        for call in history.calls
        if call.request.DESCRIPTOR.full_name not in RULES_OF and _has_answer(call)
    )


_OTHERS: Mapping[str, Callable[[History], int]] = {
    "a command sent twice at the same time": _concurrent_repetitions,
    "an id that two tenants have": _shared_ids,
    "a subscription that was resumed": lambda history: sum(
        len([each for each in subscription.connections if each]) > 1
        for subscription in history.subscriptions
    ),
    "a watch that showed a change": lambda history: sum(
        len(connection.responses) > 1
        for watch in history.watches
        for connection in watch.connections
    ),
    "a query during a rebuild": _queries_during_rebuilds,
}
