"""One command_id: at most one effect, and one receipt for it."""

import pytest

from command_service.command import Command
from shared.errors import Exhausted, Refused
from shared.log.log import CommandKey, EventLog
from tests.executor.asking import ask, done, running, turns
from tests.executor.commands import (
    TENANT,
    change,
    command,
    create,
    depart,
    dock,
    load,
    register,
    uuid,
)
from tests.executor.logs import GatedLog
from tests.executor.recorded import payloads_of
from tests.log.builders import ship
from tests.log.reading import events_of
from tidemark.v1.ship_pb2 import RegisterShip, ShipDocked, ShipRegistered

DISK_FULL = Exhausted("DISK_FULL", "The disk is full")

# After it is durable


async def test_a_repeated_command_changes_nothing_and_gets_the_same_receipt(
    log: EventLog,
) -> None:
    async with running(log) as executor:
        await done(executor, register(), dock())
        [receipt] = await done(executor, command(load(), 1))
        await done(executor, load())
        before = log.head

        for _ in range(3):
            repeated = await ask(executor, command(load(), 1)).receipt()
            assert repeated.duplicate
            repeated.duplicate = False
            assert repeated == receipt
        assert log.head == before


async def test_a_command_is_recognized_after_a_restart(log: EventLog) -> None:
    async with running(log) as executor:
        [receipt] = await done(executor, command(register(), 1))
    async with running(log) as executor:
        repeated = await ask(executor, command(register(), 1)).receipt()
        assert (repeated.duplicate, repeated.position) == (True, receipt.position)
    assert log.head.position == 1


async def test_a_repetition_is_recognized_before_any_other_check(log: EventLog) -> None:
    async with running(log) as executor:
        await done(executor, command(register(), 1), dock())
        [receipt] = await done(executor, command(depart(), 2, expected_version=2))

        assert (await ask(executor, command(register(), 1)).receipt()).version == 1
        repeated = await ask(executor, command(depart(), 2, expected_version=2)).receipt()
        assert (repeated.version, repeated.duplicate) == (3, True)
        # The context is no part of the command.
        other_version = command(depart(), 2, expected_version=9, correlation_id="again")
        assert (await ask(executor, other_version).receipt()).position == receipt.position


async def test_a_repeated_creation_gets_the_id_that_was_made_up_at_first(log: EventLog) -> None:
    async with running(log) as executor:
        [receipt] = await done(executor, command(RegisterShip(name="Aurora"), 1))
        repeated = await ask(executor, command(RegisterShip(name="Aurora"), 1)).receipt()
        assert repeated.aggregate_id == receipt.aggregate_id != ""
    assert log.head.position == 1


async def test_another_spelling_is_the_same_id(log: EventLog) -> None:
    async with running(log) as executor:
        spelling = "0A8B6E1C-5F1E-4C5B-9C52-3C3E2B1D7F00"
        await done(executor, command(register(), spelling))
        for same in (spelling.lower(), spelling.replace("-", ""), f"urn:uuid:{spelling}"):
            repeated = await ask(executor, command(register(), same)).receipt()
            assert (repeated.duplicate, repeated.command_id) == (True, spelling.lower())


async def test_the_same_id_in_another_tenant_is_another_command(log: EventLog) -> None:
    async with running(log) as executor:
        [mine] = await done(executor, command(register(), 1))
        [theirs] = await done(executor, command(register(), 1, tenant_id="umbrella"))
        assert (theirs.position, theirs.duplicate) == (mine.position + 1, False)


# While the first one is in flight


async def test_a_repetition_in_flight_waits_for_the_first_one_and_gets_its_receipt(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(1)
        first = ask(executor, command(register(), 1))
        append = await gated_log.appending.arrival()
        repeated = ask(executor, command(register(), 1))
        await turns()
        assert not repeated.is_answered

        append.let_go()
        receipt, repeated_receipt = await first.receipt(), await repeated.receipt()
        assert (receipt.duplicate, repeated_receipt.duplicate) == (False, True)
        repeated_receipt.duplicate = False
        assert repeated_receipt == receipt
        assert [len(commits) for commits in gated_log.appends] == [1]


async def test_of_many_at_once_one_takes_effect_and_all_get_its_receipt(log: EventLog) -> None:
    async with running(log) as executor:
        asked = [ask(executor, command(RegisterShip(name="Aurora"), 1)) for _ in range(300)]
        receipts = [await each.receipt() for each in asked]
        assert len({(each.aggregate_id, each.version, each.position) for each in receipts}) == 1
        assert [each.duplicate for each in receipts].count(False) == 1
    assert log.head.position == 1


async def test_a_repetition_gets_the_receipt_though_the_first_caller_has_gone(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(1)
        first = ask(executor, command(register(), 1))
        append = await gated_log.appending.arrival()
        repeated = ask(executor, command(register(), 1))
        await turns()
        first.hang_up()
        append.let_go()
        assert (await repeated.receipt()).position == 1
    assert gated_log.head.position == 1


async def test_a_repetition_is_recognized_though_the_first_one_is_settled_while_it_is_prepared(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(1)
        first = ask(executor, command(register(), 1))
        append = await gated_log.appending.arrival()
        gated_log.loading.hold(1)
        cold = ask(executor, create())
        repeated = ask(executor, command(register(), 1))
        loading = await gated_log.loading.arrival()
        append.let_go()
        receipt = await first.receipt()
        loading.let_go()

        repeated_receipt = await repeated.receipt()
        assert (repeated_receipt.duplicate, repeated_receipt.position) == (True, receipt.position)
        assert (await cold.receipt()).version == 1


async def test_a_repetition_takes_effect_if_the_commit_of_the_first_one_fails(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(1)
        first = ask(executor, command(register(), 1))
        append = await gated_log.appending.arrival()
        repetitions = [ask(executor, command(register(), 1)) for _ in range(3)]
        await turns()
        append.fail(DISK_FULL)

        assert await first.reason() == "DISK_FULL"
        receipts = [await repeated.receipt() for repeated in repetitions]
        assert [receipt.duplicate for receipt in receipts] == [False, True, True]
        assert {receipt.position for receipt in receipts} == {1}
    assert gated_log.head.position == 1


async def test_a_repetition_takes_effect_if_the_first_one_has_to_be_given_up(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        await done(executor, register())
        gated_log.appending.hold(1)
        failing = ask(executor, dock())
        append = await gated_log.appending.arrival()
        first = ask(executor, command(dock(port="Bergen"), 1))
        repeated = ask(executor, command(dock(port="Bergen"), 1))
        await turns()
        first.hang_up()
        append.fail(DISK_FULL)

        assert await failing.reason() == "DISK_FULL"
        assert (await repeated.receipt()).version == 2
    assert await payloads_of(gated_log, ship()) == [
        ShipRegistered(name="Aurora"),
        ShipDocked(port="Bergen"),
    ]


# Another command under the same id


reusing = pytest.mark.parametrize(
    "other",
    [
        command(dock("aurora", port="Bergen"), 1),
        command(dock("borealis"), 1),
        command(depart("aurora"), 1),
        command(change("aurora"), 1),
    ],
    ids=["other content", "other aggregate", "other command", "other kind"],
)


@reusing
async def test_another_command_under_an_id_that_was_used_is_refused(
    log: EventLog, other: Command
) -> None:
    async with running(log) as executor:
        await done(executor, register("aurora"), register("borealis"), create("aurora"))
        await done(executor, command(dock("aurora"), 1))
        before = log.head
        error = await ask(executor, other).error()
        assert isinstance(error, Refused)
        assert (error.reason, error.metadata["command_id"]) == ("COMMAND_ID_REUSED", uuid(1))
        assert log.head == before


@reusing
async def test_another_command_under_an_id_in_flight_waits_and_is_refused(
    gated_log: GatedLog, other: Command
) -> None:
    async with running(gated_log) as executor:
        await done(executor, register("aurora"), register("borealis"), create("aurora"))
        gated_log.appending.hold(1)
        first = ask(executor, command(dock("aurora"), 1))
        append = await gated_log.appending.arrival()
        asked = ask(executor, other)
        await turns()
        assert not asked.is_answered
        append.let_go()
        assert await asked.reason() == "COMMAND_ID_REUSED"
        assert (await first.receipt()).version == 2
    assert gated_log.head.position == 4


async def test_another_command_takes_effect_if_the_commit_of_the_first_one_fails(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(1)
        first = ask(executor, command(register("aurora"), 1))
        append = await gated_log.appending.arrival()
        other = ask(executor, command(register("borealis"), 1))
        await turns()
        append.fail(DISK_FULL)
        assert await first.reason() == "DISK_FULL"
        assert (await other.receipt()).aggregate_id == "borealis"


# What leaves an id free


async def test_a_rejected_command_leaves_its_id_free(log: EventLog) -> None:
    async with running(log) as executor:
        assert await ask(executor, command(dock(), 1)).reason() == "SHIP_NOT_FOUND"
        await done(executor, register())
        receipt = await ask(executor, command(dock(), 1)).receipt()
        assert (receipt.version, receipt.duplicate) == (2, False)


async def test_a_command_under_the_id_of_one_that_waits_to_be_rejected_takes_effect(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold(1)
        ask(executor, register())
        append = await gated_log.appending.arrival()
        rejected = ask(executor, command(depart(), 1))
        await turns()
        accepted = ask(executor, command(dock(), 1))
        await turns()
        append.let_go()
        assert await rejected.reason() == "SHIP_NOT_DOCKED"
        receipt = await accepted.receipt()
        assert (receipt.version, receipt.duplicate) == (2, False)


async def test_a_preview_does_not_use_up_the_id(log: EventLog) -> None:
    async with running(log) as executor:
        await done(executor, command(register(), 1, validate_only=True))
        receipt = await ask(executor, command(register(), 1)).receipt()
        assert (receipt.version, receipt.duplicate) == (1, False)


async def test_a_preview_does_not_look_the_id_up(gated_log: GatedLog) -> None:
    async with running(gated_log) as executor:
        await done(executor, register(), command(dock(), 1))
        lookups = len(gated_log.lookups)
        preview = await ask(executor, command(dock(), 1, validate_only=True)).receipt()
        assert (preview.version, preview.duplicate, len(preview.events)) == (3, False, 1)
        other = await ask(executor, command(depart(), 1, validate_only=True)).receipt()
        assert (other.version, len(other.events)) == (3, 1)
        assert len(gated_log.lookups) == lookups


async def test_a_preview_does_not_wait_for_the_command_in_flight_under_its_id(
    exclusive_log: GatedLog,
) -> None:
    async with running(exclusive_log) as executor:
        await done(executor, create())
        exclusive_log.appending.hold()
        first = ask(executor, command(register(), 1))
        await exclusive_log.appending.arrival()
        preview = await ask(executor, command(change(), 1, validate_only=True)).receipt()
        assert preview.version == 2
        assert not first.is_answered
        exclusive_log.appending.release()


async def test_an_id_that_was_made_up_has_no_receipt(log: EventLog) -> None:
    async with running(log) as executor:
        [receipt] = await done(executor, create())
        made_up = receipt.command_id
        assert await log.receipts([CommandKey(TENANT, made_up)]) == {}
        again = await ask(executor, command(change(), made_up)).receipt()
        assert (again.version, again.duplicate) == (2, False)
    created, _ = await events_of(log)
    assert (created.causation_id, created.command_fingerprint) == (made_up, b"")


async def test_commands_without_an_id_are_never_repetitions(log: EventLog) -> None:
    async with running(log) as executor:
        await done(executor, create())
        receipts = await done(executor, change(), change())
        assert [(receipt.version, receipt.duplicate) for receipt in receipts] == [
            (2, False),
            (3, False),
        ]
        assert receipts[0].command_id != receipts[1].command_id
