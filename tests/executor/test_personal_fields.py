"""What is personal, between the rules and the log; and the end of it."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import Message

from command_service.aggregates.ship import SHIP_RULES
from command_service.aggregates.user import USER_RULES
from command_service.command import CommandTypes
from command_service.erasures import Erasures
from command_service.executor import Executor
from command_service.keys.store import KeyCheckpoint
from shared.aggregates.user import USER
from shared.errors import Exhausted, TidemarkError, Unavailable
from shared.log.log import AggregateKey, Commit, EventLog, OutcomeUnknown
from shared.log.memory import MemoryLog
from shared.personal.sealing import DESTROYED, is_sealed, unseal_event, unseal_state
from tests.executor.asking import ask, done, running, turns, within
from tests.executor.commands import change, command, create
from tests.executor.logs import GatedLog
from tests.executor.recorded import payloads_of
from tests.keys.memory import MemoryKeys
from tests.log.builders import event, user
from tests.log.reading import events_of
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    DeleteUser,
    EraseUser,
    User,
    UserCreated,
    UserErased,
)

ADA = user("ada")
ERASE = EraseUser(user_id="ada")
NAME = b"Ada"


class GatedKeys(MemoryKeys):
    """Whose keys are destroyed when a test wants it, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []
        self.may_destroy = asyncio.Event()
        self.may_destroy.set()

    async def destroy(self, aggregates: Collection[AggregateKey]) -> None:
        await self.may_destroy.wait()
        if self.failures:
            raise self.failures.pop(0)
        await super().destroy(aggregates)


class NoKeys(MemoryKeys):
    """That nobody may ask."""

    async def find(self, aggregates: Collection[AggregateKey]) -> Any:
        raise AssertionError(f"Keys of {aggregates} were asked for")

    make = find


@pytest.fixture
def keys() -> GatedKeys:
    return GatedKeys()


async def everything_in(log: EventLog) -> bytes:
    """All bytes of the log, its snapshots included."""
    page = await log.read(0)
    snapshots = await log.snapshots()
    return b"".join([*page.records, *(each.state for each in snapshots.values())])


# What the log has


async def test_the_log_has_nothing_personal_that_can_be_read(
    log: EventLog, keys: GatedKeys
) -> None:
    async with running(log, keys, snapshot_every=2) as executor:
        await done(executor, create(balance=3), change(), change(), change())
    assert (await log.snapshots())[ADA].version >= 2
    assert NAME not in await everything_in(log)
    created, *_ = await payloads_of(log, ADA)
    assert created != UserCreated(username="Ada", balance=3)
    unseal_event(created, ADA, 1, keys.keys[ADA])
    assert created == UserCreated(username="Ada", balance=3)


async def test_an_aggregate_goes_on_from_a_snapshot_that_is_encrypted(
    log: EventLog, keys: GatedKeys
) -> None:
    async with running(log, keys, snapshot_every=2) as executor:
        await done(executor, create(balance=3), change())
    async with running(log, keys) as executor:
        assert await ask(executor, change(by=-5)).reason() == "INSUFFICIENT_BALANCE"
        await done(executor, change(by=-4))
    state = User.FromString((await log.snapshots())[ADA].state)
    assert is_sealed(state.username)
    unseal_state(state, ADA, keys.keys[ADA])
    assert state.username == "Ada"


async def test_only_commands_with_something_personal_need_a_key(log: EventLog) -> None:
    async with running(log, GatedKeys()) as executor:
        await done(executor, create(balance=3))
    async with running(log, NoKeys()) as executor:
        await done(executor, change(), DeleteUser(user_id="ada"))


async def test_a_command_that_is_only_validated_makes_no_key_and_is_shown_what_it_would_do(
    log: EventLog, keys: GatedKeys
) -> None:
    async with running(log, keys) as executor:
        [receipt] = await done(executor, command(create(), validate_only=True))
    [would_be] = receipt.events
    assert USER.unpack(would_be) == UserCreated(username="Ada")
    assert keys.keys == {}


async def test_a_command_whose_key_cannot_be_had_fails_and_writes_nothing(log: EventLog) -> None:
    class Away(MemoryKeys):
        async def make(self, aggregates: Collection[AggregateKey]) -> Any:
            raise Exhausted("DISK_FULL", f"No room for {len(aggregates)}")

    async with running(log, Away()) as executor:
        assert await ask(executor, create()).reason() == "DISK_FULL"
        assert await ask(executor, change()).reason() == "USER_NOT_FOUND"
    assert log.head.position == 0


async def test_rules_that_take_what_is_personal_from_the_state_are_a_mistake(
    log: EventLog, keys: GatedKeys
) -> None:
    def decide(user: User | None, asked: Any) -> Sequence[Message]:
        if isinstance(asked, ChangeUserBalance) and user is not None:
            return [UserCreated(username=user.username)]
        return USER_RULES.decide(user, asked)

    types = CommandTypes([SHIP_RULES, replace(USER_RULES, decide=decide)])
    async with running(log, keys) as executor:
        await done(executor, command(create(), types=types))
        assert await ask(executor, command(change(), types=types)).reason() == "INTERNAL"
    assert log.head.position == 1


async def test_aggregates_of_before_go_on_as_they_are(log: EventLog, keys: GatedKeys) -> None:
    created = event(ADA, 1, UserCreated(username="Ada", balance=3))
    await log.append([Commit(ADA, 0, [created])])
    async with running(log, keys) as executor:
        await done(executor, change(), ERASE, change())
    assert (await payloads_of(log, ADA))[0] == UserCreated(username="Ada", balance=3)


# Repeated commands


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_repeated_command_is_recognized_and_another_one_refused(
    log: EventLog, keys: GatedKeys, is_restarted: bool
) -> None:
    other = CreateUser(user_id="ada", username="Eve")
    async with running(log, keys) as executor:
        [first] = await done(executor, command(create(), 1))
        if not is_restarted:
            [again] = await done(executor, command(create(), 1))
            assert await ask(executor, command(other, 1)).reason() == "COMMAND_ID_REUSED"
    async with running(log, keys) as executor:
        [again] = await done(executor, command(create(), 1))
        assert await ask(executor, command(other, 1)).reason() == "COMMAND_ID_REUSED"
        assert await ask(executor, command(change(), 1)).reason() == "COMMAND_ID_REUSED"
    assert (again.duplicate, again.position) == (True, first.position)
    assert log.head.position == 1


async def test_who_leaves_the_id_to_the_service_is_recognized_as_well(
    log: EventLog, keys: GatedKeys
) -> None:
    async with running(log, keys) as executor:
        [first] = await done(executor, command(create(""), 1))
    async with running(log, keys) as executor:
        [again] = await done(executor, command(create(""), 1))
        reason = await ask(executor, command(CreateUser(username="Eve"), 1)).reason()
    assert (again.duplicate, again.aggregate_id) == (True, first.aggregate_id)
    assert reason == "COMMAND_ID_REUSED"


async def test_what_is_kept_of_a_command_does_not_tell_whether_a_name_was_guessed_right(
    log: EventLog, keys: GatedKeys
) -> None:
    asked = command(create(), 1)
    async with running(log, keys) as executor:
        await done(executor, asked)
    [created] = await events_of(log)
    assert asked.fingerprint not in created.command_fingerprint


async def test_a_repeated_command_of_before_is_recognized(log: EventLog, keys: GatedKeys) -> None:
    asked = command(create(), 1)
    created = event(ADA, 1, UserCreated(username="Ada"))
    created.causation_id, created.command_fingerprint = asked.command_id, asked.fingerprint
    await log.append([Commit(ADA, 0, [created], asked.receipt_key)])
    async with running(log, keys) as executor:
        [again] = await done(executor, command(create(), 1))
        other = CreateUser(user_id="ada", username="Eve")
        assert await ask(executor, command(other, 1)).reason() == "COMMAND_ID_REUSED"
    assert again.duplicate


async def test_after_an_erasure_a_repeated_command_is_taken_for_the_one_that_it_says_it_is(
    log: EventLog, keys: GatedKeys
) -> None:
    async with running(log, keys) as executor:
        await done(executor, command(create(), 1), command(change(), 2), ERASE)
        [again] = await done(executor, command(create(), 1))
        assert again.duplicate
        # What had nothing personal can still be told from it.
        assert await ask(executor, command(create(), 2)).reason() == "COMMAND_ID_REUSED"


# Erasing


async def test_who_is_erased_is_told_so_when_the_key_is_destroyed(
    log: EventLog, keys: GatedKeys
) -> None:
    async with running(log, keys) as executor:
        await done(executor, create())
        keys.may_destroy.clear()
        erased, changed = ask(executor, ERASE), ask(executor, change())
        # Others do not wait for it.
        assert (await changed.receipt()).version == 3
        await turns()
        assert not erased.is_answered
        assert (await payloads_of(log, ADA))[1] == UserErased()
        keys.may_destroy.set()
        assert (await erased.receipt()).version == 2
    assert keys.keys == {ADA: DESTROYED}


@pytest.mark.parametrize(
    "failure", [Exhausted("DISK_FULL", "No room"), Unavailable("KEYS_IN_USE", "Somebody reads")]
)
async def test_who_cannot_be_told_so_is_told_when_asking_again(
    log: EventLog, keys: GatedKeys, failure: TidemarkError
) -> None:
    async with running(log, keys) as executor:
        await done(executor, create())
        keys.failures += [failure, failure]
        for _ in range(2):
            error = await ask(executor, command(ERASE, 1)).error()
            assert error.reason == "ERASURE_UNFINISHED"
            assert not error.is_verdict
            assert keys.keys[ADA] != DESTROYED
        [receipt] = await done(executor, command(ERASE, 1))
    assert receipt.duplicate
    assert keys.keys[ADA] == DESTROYED
    assert log.head.position == 2


async def test_another_service_that_is_asked_again_destroys_the_key_before_it_answers(
    log: EventLog, keys: GatedKeys
) -> None:
    async with running(log, keys) as executor:
        await done(executor, create())
        keys.failures.append(Unavailable("KEYS_IN_USE", "Somebody reads"))
        await ask(executor, command(ERASE, 1)).error()
    async with running(log, keys) as other:
        assert (await ask(other, command(ERASE, 1)).receipt()).duplicate
        assert keys.keys[ADA] == DESTROYED


async def test_a_refused_erasure_destroys_nothing(log: EventLog, keys: GatedKeys) -> None:
    async with running(log, keys) as executor:
        await done(executor, create())
        refused = command(ERASE, 1, expected_version=7)
        assert await ask(executor, refused).reason() == "WRONG_VERSION"
        assert await ask(executor, EraseUser(user_id="eve")).reason() == "USER_NOT_FOUND"
        await done(executor, command(ERASE, 2, validate_only=True))
        assert keys.keys.keys() == {ADA}
        assert keys.keys[ADA] != DESTROYED


async def test_an_erasure_whose_commit_fails_destroys_nothing(
    gated_log: GatedLog, keys: GatedKeys
) -> None:
    async with running(gated_log, keys) as executor:
        await done(executor, create())
        gated_log.appending.fail_next(Exhausted("DISK_FULL", "No room"))
        assert await ask(executor, ERASE).reason() == "DISK_FULL"
        assert keys.keys[ADA] != DESTROYED


async def test_who_is_created_and_erased_at_once_is_erased(log: EventLog, keys: GatedKeys) -> None:
    async with running(log, keys) as executor:
        asked = [ask(executor, each) for each in (create(), ERASE, ERASE)]
        assert [(await each.receipt()).version for each in asked[:2]] == [1, 2]
        assert await asked[2].reason() == "USER_ERASED"
    assert keys.keys == {ADA: DESTROYED}


async def test_an_error_of_the_disk_while_keys_are_destroyed_ends_the_executor(
    log: EventLog, keys: GatedKeys
) -> None:
    keys.failures.append(OutcomeUnknown("the disk fails"))
    executor = Executor(log, keys)
    ask(executor, create())
    ask(executor, ERASE)
    with pytest.RaisesGroup(OutcomeUnknown):
        await within(executor.run())


async def test_after_an_older_log_was_put_back_nobody_gets_a_new_key_in_silence(
    keys: GatedKeys,
) -> None:
    newer = MemoryLog()
    async with running(newer, keys) as executor:
        await done(executor, create(), ERASE)
    older = MemoryLog()
    async with running(older, keys) as executor:
        error = await ask(executor, create()).error()
    assert error.reason == "PERSON_ERASED"
    assert older.head.position == 0


# Carrying out what the log says


async def test_what_was_left_undone_is_done_after_the_next_start(
    log: EventLog, keys: GatedKeys
) -> None:
    async with running(log, keys) as executor:
        await done(executor, create("ada"), create("bob"))
        keys.failures.append(Unavailable("KEYS_IN_USE", "Somebody reads"))
        await ask(executor, ERASE).error()
    await Erasures(log, [USER], keys).catch_up()
    assert keys.keys[ADA] == DESTROYED
    assert keys.keys[user("bob")] != DESTROYED


async def test_keys_that_come_back_with_an_older_key_store_are_destroyed_again(
    log: EventLog, keys: GatedKeys
) -> None:
    async with running(log, keys) as executor:
        await done(executor, create())
        older = MemoryKeys()
        older.keys |= keys.keys
        await done(executor, ERASE)
    await Erasures(log, [USER], older).catch_up()
    assert older.keys == {ADA: DESTROYED}


async def test_what_another_service_left_undone_is_done_meanwhile(
    log: EventLog, keys: GatedKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("command_service.erasures.EVERY_S", 0.0)
    erasures = Erasures(log, [USER], keys)
    following = asyncio.create_task(erasures.run())
    destroyed = asyncio.Event()

    async def destroy(aggregates: Collection[AggregateKey]) -> None:
        if keys.failures:
            raise keys.failures.pop()
        await MemoryKeys.destroy(keys, aggregates)
        destroyed.set()

    monkeypatch.setattr(keys, "destroy", destroy)
    keys.failures.append(Exhausted("DISK_FULL", "No room"))
    await keys.make([ADA])
    created, erased = event(ADA, 1, UserCreated(username="x")), event(ADA, 2, UserErased())
    await log.append([Commit(ADA, 0, [created, erased])])
    await within(destroyed.wait())
    following.cancel()
    assert keys.keys == {ADA: DESTROYED}


async def test_it_goes_on_from_where_the_key_store_has_come_unless_the_log_is_another(
    log: EventLog, keys: GatedKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("command_service.erasures.KEPT_EVERY", 1)
    async with running(log, keys) as executor:
        await done(executor, create(), ERASE)
    await Erasures(log, [USER], keys).catch_up()
    assert await keys.checkpoint() == KeyCheckpoint(log.head.position, log.head.digest)

    keys.failures.append(AssertionError("It begins anew"))
    await Erasures(log, [USER], keys).catch_up()
    await keys.reach(KeyCheckpoint(1, bytes([1]) * 32))
    with pytest.raises(AssertionError, match="anew"):
        await Erasures(log, [USER], keys).catch_up()
