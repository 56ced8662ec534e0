"""What really happened in a history: a run in which nothing went wrong proves nothing."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping

from tests.history.commands import command_id_of, context_of, is_command
from tests.history.queries import aggregate_in, as_of_in
from tests.history.recorded import Call, Failure, History, Replayed, Subscription, Unknown
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.user_pb2 import DeleteUser


def counted(history: History) -> Counter[str]:
    """How often each kind of thing occurred; of what is no call, whether it did."""
    return Counter(_occurrences(history))


def missing(history: History) -> list[str]:
    """The kinds of things that did not occur; of what is looked at in the end, once it was."""
    left = dict.fromkeys([*_OTHERS, *_COMMANDS, *_QUERIES])
    if history.log.records:
        left.update(dict.fromkeys(_AFTERWARDS))
    for kind in _occurrences(history):
        left.pop(kind, None)
        if not left:
            break
    return list(left)


def _occurrences(history: History) -> Iterator[str]:
    for kind, occurred in (*_OTHERS.items(), *_AFTERWARDS.items()):
        if occurred(history):
            yield kind
    before = _Before(history)
    for call in history.calls:
        kinds = _COMMANDS if is_command(call) else _QUERIES
        yield from (kind for kind, occurred in kinds.items() if occurred(call, before))
        before.note(call)


class _Before:
    """What had been answered before a call was."""

    def __init__(self, history: History) -> None:
        self._attempts: dict[tuple[str, str], Call] = {}
        self._refused: set[tuple[str, str]] = set()
        self._tenants: defaultdict[str, set[str]] = defaultdict(set)
        self._deleted: set[tuple[str, str]] = set()
        # One after the other, as its client has them made.
        self._rebuilds = [each for each in history.rebuilds if each.failure is None]

    def note(self, call: Call) -> None:
        """Goes on to the next call."""
        if not is_command(call):
            return
        answer = call.answer
        if command_id := command_id_of(call):
            self._attempts[call.tenant_id, command_id] = call
            self._tenants[command_id].add(call.tenant_id)
            if isinstance(answer, Failure):
                self._refused.add((call.tenant_id, command_id))
        if isinstance(answer, CommandReceipt):
            self._tenants[answer.aggregate_id].add(call.tenant_id)
            if isinstance(call.request, DeleteUser):
                self._deleted.add((call.tenant_id, answer.aggregate_id))

    def is_elsewhere(self, name: str, call: Call) -> bool:
        """Whether another tenant has that id, of a command or of an aggregate."""
        return bool(name) and bool(self._tenants.get(name, set()) - {call.tenant_id})

    def is_under_way(self, call: Call) -> bool:
        """Whether the command had not been answered when it was sent again."""
        other = self._attempts.get((call.tenant_id, command_id_of(call)))
        return other is not None and call.invoked < other.ended

    def was_refused(self, call: Call) -> bool:
        """Whether its id had been refused."""
        return (call.tenant_id, command_id_of(call)) in self._refused

    def is_deleted(self, call: Call) -> bool:
        """Whether a query is for a user that had been deleted."""
        key = aggregate_in(call)
        return key is not None and (key.tenant_id, key.aggregate_id) in self._deleted

    def is_being_rebuilt(self, call: Call) -> bool:
        """Whether a projection was rebuilt at that time."""
        index = bisect_left(self._rebuilds, call.invoked, key=lambda rebuild: rebuild.ended)
        return index < len(self._rebuilds) and self._rebuilds[index].began <= call.ended


def _reason(call: Call) -> str:
    return call.answer.reason if isinstance(call.answer, Failure) else ""


def _has_answer(call: Call) -> bool:
    return not isinstance(call.answer, Failure | Unknown)


_Occurred = Callable[[Call, _Before], object]

_COMMANDS: Mapping[str, _Occurred] = {
    "a command without command_id": lambda call, _: not context_of(call).command_id,
    "a command that was only validated": lambda call, _: context_of(call).validate_only,
    "a repeated command": lambda call, _: (
        isinstance(call.answer, CommandReceipt) and call.answer.duplicate
    ),
    "a command sent twice at the same time": lambda call, before: before.is_under_way(call),
    "another command under the same id": lambda call, _: _reason(call) == "COMMAND_ID_REUSED",
    "a command that was refused, and later was not": lambda call, before: (
        isinstance(call.answer, CommandReceipt) and before.was_refused(call)
    ),
    "a command_id of two tenants": lambda call, before: before.is_elsewhere(
        command_id_of(call), call
    ),
    "an aggregate's id of two tenants": lambda call, before: (
        isinstance(call.answer, CommandReceipt)
        and before.is_elsewhere(call.answer.aggregate_id, call)
    ),
    "a wrong expected_version": lambda call, _: _reason(call) == "WRONG_VERSION",
    "a right expected_version": lambda call, _: (
        context_of(call).HasField("expected_version") and _has_answer(call)
    ),
    "a creation": lambda call, _: (
        isinstance(call.answer, CommandReceipt) and call.answer.version == 1
    ),
    "a creation of what exists": lambda call, _: _reason(call).endswith(
        ("_ALREADY_EXISTS", "_ALREADY_REGISTERED")
    ),
    "a refusal by the rules": lambda call, _: (
        _reason(call)
        in {"INSUFFICIENT_BALANCE", "SHIP_NOT_DOCKED", "CARGO_NOT_ABOARD", "NOT_ENOUGH_CARGO"}
    ),
    "a command for nothing": lambda call, _: _reason(call).endswith("_NOT_FOUND"),
    "a command for a deleted user": lambda call, _: _reason(call) == "USER_DELETED",
    "a command in bulk": lambda call, _: call.is_bulk and _has_answer(call),
    "an unknown outcome": lambda call, _: isinstance(call.answer, Unknown),
}


def _asks(call: Call, field: str) -> bool:
    """Whether a query that was answered has something in a field."""
    names = call.request.DESCRIPTOR.fields_by_name
    return _has_answer(call) and field in names and bool(getattr(call.request, field))


def _is_of_the_past(call: Call) -> bool:
    return _has_answer(call) and as_of_in(call) is not None


_QUERIES: Mapping[str, _Occurred] = {
    "a read with min_position": lambda call, _: _asks(call, "min_position"),
    "a read as of a moment": lambda call, _: _is_of_the_past(call),
    "a read as of a later version": lambda call, _: (
        _is_of_the_past(call) and (as_of := as_of_in(call)) and as_of.version > 1
    ),
    "a deleted user": lambda call, before: (
        _reason(call) == "USER_NOT_FOUND" and before.is_deleted(call)
    ),
    "a deleted user as it was": lambda call, before: (
        _is_of_the_past(call) and before.is_deleted(call)
    ),
    "a replay": lambda call, _: (
        isinstance(call.answer, Replayed) and len(call.answer.responses) > 1
    ),
    "a list": lambda call, _: _has_answer(call) and call.request.DESCRIPTOR.name.startswith("List"),
    "a page after another": lambda call, _: _asks(call, "page_token"),
    "a query during a rebuild": lambda call, before: (
        _has_answer(call) and before.is_being_rebuilt(call)
    ),
}


def _has_events(subscription: Subscription) -> bool:
    return any(
        delivery.events for connection in subscription.connections for delivery in connection
    )


def _any_subscription(is_so: Callable[[Subscription], object]) -> Callable[[History], object]:
    return lambda history: any(is_so(each) and _has_events(each) for each in history.subscriptions)


def _has_response_for_all(history: History) -> bool:
    some = {each.client for each in history.subscriptions if any(each.connections)}
    return some == {each.client for each in history.subscriptions}


_OTHERS: Mapping[str, Callable[[History], object]] = {
    "a response to every subscriber": _has_response_for_all,
    "a subscription that was resumed": _any_subscription(
        lambda subscription: len([each for each in subscription.connections if each]) > 1
    ),
    "a subscription by correlation_id": _any_subscription(
        lambda subscription: subscription.event_filter.correlation_ids
    ),
    "a subscription from a time": _any_subscription(lambda subscription: subscription.from_time),
    "a subscription from the head": _any_subscription(lambda subscription: subscription.from_head),
    "a state on every watch": lambda history: all(
        any(connection.responses for connection in watch.connections) for watch in history.watches
    ),
    "a watch that showed a change": lambda history: any(
        len(connection.responses) > 1
        for watch in history.watches
        for connection in watch.connections
    ),
}

_AFTERWARDS: Mapping[str, Callable[[History], object]] = {
    "a replica that is compared": lambda history: any(
        replica.records for replica in history.replicas
    ),
    "a list that is compared, and again after a rebuild": lambda history: any(
        views.followed and views.rebuilt for views in history.views
    ),
}
