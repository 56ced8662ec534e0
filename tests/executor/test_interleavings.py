"""Whatever the executors on one log, one or two, are asked at once, and whichever calls of it fail.

The invariants of reliability, on histories that Hypothesis makes up: what every caller asked and
was told, and between which heads of the log, against the log as it stands afterwards.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from command_service.calls import Answer
from command_service.command import Command
from shared.errors import Exhausted, TidemarkError, Unavailable
from shared.log.log import AggregateKey, CommandKey, Commit, History, Outcome, Receipt
from shared.log.memory import MemoryLog
from shared.personal.sealing import DESTROYED, unseal_event
from tests.executor.asking import KEYS, running, within
from tests.executor.commands import change, command, create, depart, dock, load, unload
from tests.executor.recorded import AGGREGATES, payload_of
from tests.keys.recorded import recorded_fingerprint
from tests.log.reading import events_of
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import RegisterShip, Ship, ShipStatus
from tidemark.v1.user_pb2 import DeleteUser, User

FAILURES = {"DISK_FULL", "LOG_UNAVAILABLE"}


@dataclass(frozen=True)
class Trouble:
    """What happens to one call of the log: how many turns others get, and whether it fails."""

    turns: int
    fails: bool


class TroubledLog(MemoryLog):
    """Each call meets the next trouble; when there is none left, the log works as it should."""

    def __init__(self, troubles: Iterable[Trouble], *, is_exclusive: bool) -> None:
        super().__init__()
        self.is_exclusive = is_exclusive
        self._troubles: Iterator[Trouble] = iter(troubles)

    async def _meet(self, error: TidemarkError) -> None:
        trouble = next(self._troubles, Trouble(0, fails=False))
        for _ in range(trouble.turns):
            await asyncio.sleep(0)
        if trouble.fails:
            raise error

    async def append(self, commits: Sequence[Commit]) -> list[Outcome]:
        await self._meet(Exhausted("DISK_FULL", "The disk is full"))
        return await super().append(commits)

    async def load(self, schemas: Mapping[AggregateKey, bytes]) -> dict[AggregateKey, History]:
        await self._meet(Unavailable("LOG_UNAVAILABLE", "Not now"))
        return await super().load(schemas)

    async def receipts(self, commands: Iterable[CommandKey]) -> dict[CommandKey, Receipt]:
        await self._meet(Unavailable("LOG_UNAVAILABLE", "Not now"))
        return await super().receipts(commands)


@dataclass(frozen=True)
class Call:
    """What a caller asked, what it was told, and the log's head at both moments."""

    command: Command
    answer: Answer
    before: int
    after: int


# Few aggregates, few ids, small numbers: so that the commands get in each other's way.

messages: st.SearchStrategy[Message] = st.one_of(
    st.just(create(balance=3)),
    st.builds(change, by=st.integers(-3, 3).filter(bool)),
    st.builds(change, by=st.integers(-2, -1)),
    st.just(DeleteUser(user_id="ada")),
    st.just(RegisterShip(ship_id="aurora", name="Aurora")),
    st.builds(dock, port=st.sampled_from(["Oslo", "Hull"])),
    st.just(depart()),
    st.builds(load, quantity=st.integers(1, 2)),
    st.builds(unload, quantity=st.integers(1, 2)),
)
commands = st.builds(
    command,
    messages,
    st.one_of(st.just(""), st.integers(1, 4)),
    expected_version=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 4)),
    validate_only=st.sampled_from([False] * 6 + [True]),
)
scripts = st.lists(commands, min_size=1, max_size=6)
troubles = st.lists(
    st.builds(Trouble, turns=st.integers(0, 6), fails=st.sampled_from([False] * 4 + [True])),
    max_size=20,
)


@pytest.mark.parametrize("is_exclusive", [True, False], ids=["one writer", "two writers"])
def test_whatever_happens_the_invariants_hold(is_exclusive: bool) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(scripts, min_size=2, max_size=6), troubles)
    def check(callers: list[list[Command]], troubles: list[Trouble]) -> None:
        calls, events = asyncio.run(executed(callers, troubles, is_exclusive))
        versions_have_no_gap(events)
        receipts_and_events_are_the_same(calls, events)
        every_prefix_obeys_the_domain(events)
        for call in calls:
            seen[kind_of(call)] += 1
            answer_was_true(call, events)

    check()
    # A run without these proves nothing.
    assert {"done", "repetition", "preview", "refused", "DISK_FULL", "LOG_UNAVAILABLE"} <= set(seen)
    assert {"WRONG_VERSION", "COMMAND_ID_REUSED"} <= set(seen)


async def executed(
    callers: list[list[Command]], troubles: list[Trouble], is_exclusive: bool
) -> tuple[list[Call], list[RecordedEvent]]:
    """Every caller asks one command after another, all callers at once, of one writer or two."""
    log = TroubledLog(troubles, is_exclusive=is_exclusive)
    calls: list[Call] = []

    async with (
        running(log, max_cached=1, snapshot_every=2) as one,
        running(log, snapshot_every=3) as other,
    ):
        executors = (one,) if is_exclusive else (one, other)

        async def run(caller: int, script: list[Command]) -> None:
            for each in script:
                before = log.head.position
                [answer] = await executors[caller % len(executors)].submit([each])
                calls.append(Call(each, answer, before, log.head.position))

        await within(asyncio.gather(*(run(*numbered) for numbered in enumerate(callers))))
    return calls, await events_of(log)


def kind_of(call: Call) -> str:
    match call.answer:
        case CommandReceipt(duplicate=True):
            return "repetition"
        case CommandReceipt():
            return "preview" if call.command.validate_only else "done"
        case TidemarkError(reason=reason) if reason in FAILURES or reason in {
            "WRONG_VERSION",
            "COMMAND_ID_REUSED",
        }:
            return reason
    return "refused"


def versions_have_no_gap(events: list[RecordedEvent]) -> None:
    versions: dict[str, list[int]] = {}
    for event in events:
        versions.setdefault(event.aggregate_id, []).append(event.version)
    for each in versions.values():
        assert each == list(range(1, len(each) + 1))


def receipts_and_events_are_the_same(calls: list[Call], events: list[RecordedEvent]) -> None:
    """Each event has one receipt, each receipt one event; whatever was rejected wrote nothing.

    Every command of these domains causes one event.
    """
    receipts = sorted(
        (call.answer.position, call.answer.aggregate_id, call.answer.version, call.command)
        for call in calls
        if kind_of(call) == "done" and isinstance(call.answer, CommandReceipt)
    )
    assert [receipt[:3] for receipt in receipts] == [
        (event.position, event.aggregate_id, event.version) for event in events
    ]
    for (*_, asked), event in zip(receipts, events, strict=True):
        assert event.causation_id == asked.command_id
        assert event.command_fingerprint == recorded_fingerprint(asked, event, KEYS.keys)
    keyed = [event.causation_id for event in events]
    assert len(keyed) == len(set(keyed))


def every_prefix_obeys_the_domain(events: list[RecordedEvent]) -> None:
    for position in range(1, len(events) + 1):
        match state_at(position, events[position - 1].aggregate_type, events):
            case User(balance=balance):
                assert balance >= 0
            case Ship() as ship:
                assert (ship.current_port != "") == (ship.status == ShipStatus.SHIP_STATUS_DOCKED)
                assert all(quantity > 0 for quantity in ship.cargo.values())


def state_at(position: int, aggregate_type: str, events: list[RecordedEvent]) -> Any:
    state: Any = None
    for event in events[:position]:
        if event.aggregate_type == aggregate_type:
            state = AGGREGATES[aggregate_type].fold(state, event)
    return state


def readable(event: RecordedEvent) -> Message:
    payload, key = payload_of(event), key_of(event)
    unseal_event(payload, key, event.version, KEYS.keys.get(key, DESTROYED))
    return payload


def key_of(event: RecordedEvent) -> AggregateKey:
    return AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)


def answer_was_true(call: Call, events: list[RecordedEvent]) -> None:
    """What the caller was told was so at some moment between its question and the answer."""
    answer, asked = call.answer, call.command
    match kind_of(call), answer:
        case "done", CommandReceipt(position=position):
            assert call.before < position <= call.after
            outcome = judged(asked, position - 1, events)
            assert outcome == [readable(events[position - 1])]
        case "repetition", CommandReceipt(position=position, version=version):
            first = events[position - 1]
            assert (first.causation_id, first.command_fingerprint, first.version) == (
                asked.command_id,
                recorded_fingerprint(asked, first, KEYS.keys),
                version,
            )
            assert position <= call.after
        case "preview", CommandReceipt() as receipt:
            shown = [payload_of(event) for event in receipt.events]
            assert any(judged(asked, moment, events) == shown for moment in moments(call))
        case "COMMAND_ID_REUSED", _:
            assert any(
                event.causation_id == asked.command_id
                and event.command_fingerprint != asked.fingerprint
                for event in events[: call.after]
            )
        case _, TidemarkError(reason=reason) if reason not in FAILURES:
            assert any(
                judged(asked, moment, events) == reason and not had_effect(asked, moment, events)
                for moment in moments(call)
            ), f"{reason} was never true of {asked.message}"


def moments(call: Call) -> range:
    return range(call.before, call.after + 1)


def had_effect(asked: Command, position: int, events: list[RecordedEvent]) -> bool:
    """Whether the command's id was used up by then; a preview does not care."""
    return asked.receipt_key is not None and any(
        event.causation_id == asked.command_id for event in events[:position]
    )


def judged(asked: Command, position: int, events: list[RecordedEvent]) -> list[Message] | str:
    """What the rules say to the command, given the log up to a position: events, or a reason."""
    state = state_at(position, asked.key.aggregate_type, events)
    version = 0 if state is None else state.version
    if asked.expected_version not in {None, version}:
        return "WRONG_VERSION"
    try:
        return list(asked.rules.decide(state, asked.message))
    except TidemarkError as refusal:
        return refusal.reason
