"""An answer that rests on events that are not durable yet waits until they are."""

from collections.abc import Callable
from typing import Any

import pytest

from command_service.command import Command
from shared.errors import Exhausted, TidemarkError
from tests.executor.asking import ask, done, running, turns
from tests.executor.commands import command, depart, dock, load, register
from tests.executor.logs import GatedLog
from tests.executor.recorded import payloads_of
from tests.log.builders import ship
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.ship_pb2 import ShipDeparted, ShipDocked, ShipRegistered

DISK_FULL = Exhausted("DISK_FULL", "The disk is full")


def outcome(answer: CommandReceipt | TidemarkError) -> tuple[str | int, ...]:
    """What a caller makes of an answer."""
    if isinstance(answer, TidemarkError):
        return (answer.reason, answer.metadata.get("actual_version", ""))
    return (answer.version, *(event.payload.TypeName() for event in answer.events))


PREVIEW_DOCKED = (3, "tidemark.v1.ShipDocked")

resting = pytest.mark.parametrize(
    ("make", "if_departed", "if_docked"),
    [
        (lambda: command(depart()), ("SHIP_NOT_DOCKED", ""), (3,)),
        (lambda: command(load()), ("SHIP_NOT_DOCKED", ""), (3,)),
        (lambda: command(dock(), expected_version=2), ("WRONG_VERSION", "3"), (3,)),
        (lambda: command(depart(), 1), ("SHIP_NOT_DOCKED", ""), (3,)),
        (
            lambda: command(dock(), validate_only=True),
            (4, "tidemark.v1.ShipDocked"),
            PREVIEW_DOCKED,
        ),
        (
            lambda: command(depart(), validate_only=True),
            ("SHIP_NOT_DOCKED", ""),
            (3, "tidemark.v1.ShipDeparted"),
        ),
    ],
    ids=["refusal", "another refusal", "wrong version", "with an id", "preview", "refused preview"],
)
"""Answers while the ship's departure, version 3, is on its way to the log: what they are if it gets
there, and what if it does not."""


@resting
async def test_an_answer_waits_until_what_it_rests_on_is_durable(
    gated_log: GatedLog,
    make: Callable[[], Command],
    if_departed: tuple[Any, ...],
    if_docked: tuple[Any, ...],
) -> None:
    async with running(gated_log) as executor:
        await done(executor, register(), dock())
        gated_log.appending.hold(1)
        departing = ask(executor, depart())
        append = await gated_log.appending.arrival()

        asked = ask(executor, make())
        await turns()
        assert not asked.is_answered

        append.let_go()
        assert outcome(await asked.answer()) == if_departed != if_docked
        assert (await departing.receipt()).version == 3
    assert await payloads_of(gated_log, ship()) == [
        ShipRegistered(name="Aurora"),
        ShipDocked(port="Oslo"),
        ShipDeparted(departed_from="Oslo"),
    ]


@resting
async def test_an_answer_is_decided_again_if_what_it_rests_on_fails(
    gated_log: GatedLog,
    make: Callable[[], Command],
    if_departed: tuple[Any, ...],
    if_docked: tuple[Any, ...],
) -> None:
    async with running(gated_log) as executor:
        await done(executor, register(), dock())
        gated_log.appending.hold(1)
        departing = ask(executor, depart())
        append = await gated_log.appending.arrival()

        asked = ask(executor, make())
        await turns()
        append.fail(DISK_FULL)

        assert await departing.reason() == "DISK_FULL"
        assert outcome(await asked.answer()) == if_docked != if_departed


async def test_an_answer_in_the_same_group_waits_too(gated_log: GatedLog) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(1)
        registering = ask(executor, register())
        again = ask(executor, register())
        append = await gated_log.appending.arrival()
        await turns()
        assert not again.is_answered

        append.let_go()
        assert (await registering.receipt()).version == 1
        assert await again.reason() == "SHIP_ALREADY_REGISTERED"


async def test_an_answer_in_the_group_that_fails_is_decided_again_or_fails(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(1)
        registering = ask(executor, register())
        again = ask(executor, register())
        (await gated_log.appending.arrival()).fail(DISK_FULL)

        assert await registering.reason() == "DISK_FULL"
        # With several writers the refusal was in the append itself, to be confirmed.
        answer = await again.answer()
        assert outcome(answer) == ((1,) if gated_log.is_exclusive else ("DISK_FULL", ""))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: command(depart()), ("SHIP_NOT_DOCKED", "")),
        (lambda: command(dock(), expected_version=7), ("WRONG_VERSION", "1")),
        (lambda: command(dock(), validate_only=True), (2, "tidemark.v1.ShipDocked")),
        (lambda: command(dock("ghost")), ("SHIP_NOT_FOUND", "")),
    ],
    ids=["refusal", "wrong version", "preview", "refusal of what does not exist"],
)
class TestWhenNothingIsPending:
    async def test_a_single_writer_answers_without_an_append(
        self, exclusive_log: GatedLog, make: Callable[[], Command], expected: tuple[Any, ...]
    ) -> None:
        async with running(exclusive_log) as executor:
            await done(executor, register())
            exclusive_log.appending.hold()
            assert outcome(await ask(executor, make()).answer()) == expected
            assert len(exclusive_log.appends) == 1

    async def test_one_of_several_writers_has_the_log_confirm_it_and_writes_nothing(
        self, shared_log: GatedLog, make: Callable[[], Command], expected: tuple[Any, ...]
    ) -> None:
        async with running(shared_log) as executor:
            await done(executor, register())
            assert outcome(await ask(executor, make()).answer()) == expected
            [confirmation] = shared_log.appends[-1]
            assert len(shared_log.appends) == 2
            assert list(confirmation.events) == []
            assert shared_log.head.position == 1


async def test_an_answer_does_not_wait_for_another_aggregate(exclusive_log: GatedLog) -> None:
    async with running(exclusive_log) as executor:
        await done(executor, register("warm"))
        exclusive_log.appending.hold()
        pending = ask(executor, register("pending"))
        await exclusive_log.appending.arrival()

        assert await ask(executor, depart("warm")).reason() == "SHIP_NOT_DOCKED"
        assert not pending.is_answered
        exclusive_log.appending.release()


async def test_a_preview_shows_the_events_without_their_place_in_the_log_and_changes_nothing(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        await done(executor, register())
        preview = await ask(executor, command(dock(), 1, validate_only=True)).receipt()
        [event] = preview.events
        assert (preview.version, preview.position, preview.duplicate) == (2, 0, False)
        assert (event.version, event.position, event.event_id) == (2, 0, "")
        assert not event.HasField("occurred_at")
        docked = ShipDocked()
        assert event.payload.Unpack(docked)
        assert docked == ShipDocked(port="Oslo")

        assert await ask(executor, depart()).reason() == "SHIP_NOT_DOCKED"
        assert gated_log.head.position == 1
