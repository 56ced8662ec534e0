"""What a service might get wrong. A machine that does not find it out is no test.

Each takes a patch that is undone after the world that it is for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

import query_service.store
from command_service import live
from command_service.calls import Pending
from command_service.executor import Executor
from command_service.live import LiveAggregate
from query_service.state_cache import StateCache
from query_service.states import States
from shared.log.log import AggregateKey, CommandKey, Receipt
from shared.log.sqlite import SqliteLog
from shared.log.sqlite.writing import Transaction
from shared.personal.sealing import Keys
from tests.torture import weaknesses
from tidemark.v1.event_pb2 import RecordedEvent

Weakness = Callable[[pytest.MonkeyPatch], None]


def receipts_before_commit(patch: pytest.MonkeyPatch) -> None:
    """See `tests.torture.weaknesses`, as of the next but one."""
    patch.setattr(SqliteLog, "append", SqliteLog.append)
    weaknesses.receipts_before_commit()


def idempotency_off(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether a command was executed before."""

    async def no_receipts(
        _log: SqliteLog, _commands: Iterable[CommandKey]
    ) -> dict[CommandKey, Receipt]:
        return {}

    patch.setattr(SqliteLog, "receipts", no_receipts)
    patch.setattr(Transaction, "_receipt", lambda _transaction, _command: None)


def checkpoint_apart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(query_service.store, "apply", query_service.store.apply)
    weaknesses.checkpoint_apart()


def expected_version_unread(patch: pytest.MonkeyPatch) -> None:
    """A command is executed at any version."""
    judge = Executor._judge  # noqa: SLF001  # what is weakened

    def judge_anyway(
        executor: Executor, pending: Pending, aggregate: LiveAggregate, keys: Keys
    ) -> None:
        pending.command.expected_version = None
        judge(executor, pending, aggregate, keys)

    patch.setattr(Executor, "_judge", judge_anyway)


def cache_kept(patch: pytest.MonkeyPatch) -> None:
    """A state in memory stays, though the events that led to it were not committed."""

    class KeptAggregate(LiveAggregate):
        is_lost = property(lambda _self: False, lambda _self, _is_lost: None)

    patch.setattr(live, "LiveAggregate", KeptAggregate)


def refusals_unconfirmed(patch: pytest.MonkeyPatch) -> None:
    """A refusal leaves before what it rests on is durable, and though another writer was first."""
    answer_in_turn = Executor._answer_in_turn  # noqa: SLF001  # what is weakened

    def answer_at_once(executor: Executor, pending: Pending, aggregate: LiveAggregate) -> None:
        if pending.commit is None:
            executor._settle(pending, pending.answer)  # noqa: SLF001  # the same
        else:
            answer_in_turn(executor, pending, aggregate)

    patch.setattr(Executor, "_answer_in_turn", answer_at_once)


def event_skipped(patch: pytest.MonkeyPatch) -> None:
    """A projection moves on over an event without recording it."""
    fold = States.fold

    def fold_most(states: States[Any], event: RecordedEvent) -> Any:
        if event.payload.type_url.endswith("ShipDeparted"):
            event.payload.type_url = "unknown"
        return fold(states, event)

    patch.setattr(States, "fold", fold_most)


def state_kept(patch: pytest.MonkeyPatch) -> None:
    """A projection's state in memory stays when the projection moves on."""
    put = StateCache.put

    def put_new(cache: StateCache, key: AggregateKey, state: bytes | None) -> None:
        try:
            cache.peek(key)
        except KeyError:
            put(cache, key, state)

    patch.setattr(StateCache, "put", put_new)


WEAKNESSES: Mapping[str, Weakness] = {
    each.__name__.replace("_", " "): each
    for each in (
        receipts_before_commit,
        idempotency_off,
        checkpoint_apart,
        expected_version_unread,
        cache_kept,
        refusals_unconfirmed,
        event_skipped,
        state_kept,
    )
}
