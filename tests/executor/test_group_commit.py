import asyncio
from uuid import UUID

import pytest
from google.protobuf.message import Message

from command_service.aggregates.user import USER_RULES
from command_service.executor import MAX_DECIDED, QUIET_TURNS
from shared.log.log import AggregateKey, CommandKey, EventLog
from shared.personal.sealing import unseal_event
from tests.executor.asking import KEYS, Asked, ask, done, running, turns
from tests.executor.commands import (
    TENANT,
    change,
    command,
    create,
    depart,
    dock,
    load,
    register,
    ship_types,
    uuid,
)
from tests.executor.logs import GatedLog
from tests.executor.recorded import payloads_of
from tests.log.builders import ship, user
from tests.log.reading import events_of
from tidemark.v1.ship_pb2 import CargoLoaded, Ship, ShipDeparted, ShipDocked, ShipRegistered
from tidemark.v1.user_pb2 import UserCreated

# Appending


async def test_commands_that_arrive_during_an_append_are_appended_as_one(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold()
        first = ask(executor, register("first"))
        append = await gated_log.appending.arrival()

        others = []
        for number in range(20):
            others.append(ask(executor, register(f"ship {number}")))
            await turns()
        append.let_go()
        (await gated_log.appending.arrival()).let_go()

        receipts = [await asked.receipt() for asked in (first, *others)]
        assert [receipt.position for receipt in receipts] == list(range(1, 22))
        assert [len(commits) for commits in gated_log.appends] == [1, 20]


async def test_commands_that_come_a_few_turns_of_the_event_loop_apart_are_appended_as_one(
    gated_log: GatedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("command_service.executor.LONGEST_GATHERING_S", 60.0)
    async with running(gated_log) as executor:
        others = [ask(executor, register(f"ship {number}")) for number in range(2)]
        for number in range(2, 20):
            for _ in range(QUIET_TURNS // 2):
                await asyncio.sleep(0)
            others.append(ask(executor, register(f"ship {number}")))

        for asked in others:
            await asked.receipt()
        assert [len(commits) for commits in gated_log.appends] == [20]


async def test_commands_that_keep_coming_are_decided_after_a_while(
    gated_log: GatedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("command_service.executor.LONGEST_GATHERING_S", 0.0)
    async with running(gated_log) as executor:
        first = [ask(executor, register(f"first {number}")) for number in range(2)]
        others: list[Asked] = []
        while not all(asked.is_answered for asked in first):
            others.append(ask(executor, register(f"ship {len(others)}")))
            await asyncio.sleep(0)

        assert len(others) < 2 * QUIET_TURNS


async def test_a_lone_command_is_appended_without_waiting_for_another(gated_log: GatedLog) -> None:
    async with running(gated_log) as executor:
        asked = ask(executor, register())
        await turns()
        assert asked.is_answered


async def test_a_group_is_closed_when_it_has_events_enough(
    gated_log: GatedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("command_service.executor.MAX_GROUP_EVENTS", 3)
    async with running(gated_log) as executor:
        asked = [ask(executor, register(f"ship {number}")) for number in range(8)]
        assert [(await each.receipt()).position for each in asked] == list(range(1, 9))
        assert [len(commits) for commits in gated_log.appends] == [3, 3, 2]


async def test_every_one_of_many_callers_gets_the_receipt_of_its_own_command(
    log: EventLog,
) -> None:
    count = 2 * MAX_DECIDED + 1
    async with running(log) as executor:
        asked = {
            number: ask(executor, command(create(f"user {number}"), number))
            for number in range(count)
        }
        receipts = {number: await each.receipt() for number, each in asked.items()}

    by_position = {event.position: event for event in await events_of(log)}
    assert len(by_position) == count
    for number, receipt in receipts.items():
        assert receipt.command_id == uuid(number)
        assert (receipt.aggregate_id, receipt.version) == (f"user {number}", 1)
        assert not receipt.duplicate
        event = by_position.pop(receipt.position)
        assert (event.aggregate_id, event.causation_id) == (f"user {number}", uuid(number))
    assert not by_position


async def test_a_receipt_is_given_only_when_its_event_is_in_the_log(gated_log: GatedLog) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold()
        asked = ask(executor, register())
        append = await gated_log.appending.arrival()
        await turns()
        assert not asked.is_answered
        assert gated_log.head.position == 0

        append.let_go()
        assert (await asked.receipt()).position == gated_log.head.position == 1


async def test_an_event_says_where_it_belongs_and_where_it_came_from(log: EventLog) -> None:
    async with running(log) as executor:
        asked = command(register(), 1, correlation_id="voyage", actor="harbour master")
        await ask(executor, asked).receipt()
        made_up = await ask(executor, dock()).receipt()

    registered, docked = await events_of(log)
    assert AggregateKey(
        registered.tenant_id, registered.aggregate_type, registered.aggregate_id
    ) == ship("aurora", TENANT)
    assert registered.causation_id == uuid(1)
    assert registered.correlation_id == "voyage"
    assert registered.actor == "harbour master"
    assert registered.command_fingerprint == asked.fingerprint != b""
    assert docked.causation_id == docked.correlation_id == made_up.command_id
    assert (docked.actor, docked.command_fingerprint) == ("", b"")
    assert UUID(registered.event_id).version == UUID(docked.event_id).version == 7
    assert registered.event_id != docked.event_id


async def test_the_events_of_one_command_are_contiguous_and_its_receipt_is_of_the_last(
    log: EventLog,
) -> None:
    def decide(_ship: Ship | None, _command: object) -> list[Message]:
        return [ShipRegistered(name="Aurora"), ShipDocked(port="Oslo"), ShipDeparted()]

    async with running(log) as executor:
        await done(executor, create())
        receipt = await ask(executor, command(register(), 1, types=ship_types(decide))).receipt()

    assert (receipt.version, receipt.position) == (3, 4)
    events = (await events_of(log))[1:]
    assert [(event.position, event.version) for event in events] == [(2, 1), (3, 2), (4, 3)]
    assert {event.causation_id for event in events} == {uuid(1)}
    assert len({event.event_id for event in events}) == 3


# Reading


async def test_the_cold_aggregates_of_a_batch_are_loaded_at_once_and_warm_ones_not_at_all(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        for asked in [ask(executor, create(name)) for name in ("ada", "bob")]:
            await asked.receipt()
        assert gated_log.loads == [{user("ada"), user("bob")}]

        mixed = (change("ada"), change("cleo"), create("cleo"), change("bob"), create("dan"))
        for asked in [ask(executor, each) for each in mixed]:
            await asked.answer()
        assert gated_log.loads[1:] == [{user("cleo"), user("dan")}]

        for asked in [ask(executor, change(name)) for name in ("ada", "bob", "cleo", "dan")]:
            await asked.receipt()
        assert len(gated_log.loads) == 2


async def test_the_given_command_ids_of_a_batch_are_looked_up_at_once_and_others_not_at_all(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        asked = [
            ask(executor, command(create("ada"), 1)),
            ask(executor, create("bob")),
            ask(executor, command(create("cleo"), 2)),
        ]
        for each in asked:
            await each.receipt()
        assert gated_log.lookups == [{CommandKey(TENANT, uuid(1)), CommandKey(TENANT, uuid(2))}]

        await done(executor, change("ada"), change("bob"))
        assert len(gated_log.lookups) == 1


async def test_a_new_executor_goes_on_from_what_is_in_the_log(log: EventLog) -> None:
    async with running(log) as executor:
        await done(executor, register(), dock(), load(item="silk", quantity=3))

    async with running(log) as executor:
        receipt = await ask(executor, load(item="silk", quantity=4)).receipt()
        assert (receipt.version, receipt.position) == (4, 4)


# Deciding ahead of durability


async def test_a_command_is_decided_on_top_of_events_that_are_not_durable_yet(
    gated_log: GatedLog,
) -> None:
    async with running(gated_log) as executor:
        gated_log.appending.hold()
        registering = ask(executor, register())
        append = await gated_log.appending.arrival()
        following = []
        for each in (dock(), load(), depart()):
            following.append(ask(executor, each))
            await turns()
        append.let_go()
        (await gated_log.appending.arrival()).let_go()

        assert (await registering.receipt()).version == 1
        assert [(await asked.receipt()).version for asked in following] == [2, 3, 4]
        assert [len(commits) for commits in gated_log.appends] == [1, 3]
        assert gated_log.loads == [{ship()}]
    assert await payloads_of(gated_log, ship()) == [
        ShipRegistered(name="Aurora"),
        ShipDocked(port="Oslo"),
        CargoLoaded(item="tea", quantity=1, port="Oslo"),
        ShipDeparted(departed_from="Oslo"),
    ]


async def test_commands_for_one_aggregate_share_a_group_in_their_order(log: EventLog) -> None:
    async with running(log) as executor:
        commands = [command(each) for each in (register(), dock(), load(), depart())]
        answers = await executor.submit(commands)
        assert [getattr(answer, "version", answer) for answer in answers] == [1, 2, 3, 4]


async def test_the_same_id_in_two_tenants_and_in_two_kinds_is_three_aggregates(
    log: EventLog,
) -> None:
    async with running(log) as executor:
        receipts = await done(
            executor,
            command(create("1", balance=5), tenant_id="acme"),
            command(create("1", balance=7), tenant_id="umbrella"),
            command(register("1"), tenant_id="acme"),
        )
        assert [receipt.version for receipt in receipts] == [1, 1, 1]
        poor = ask(executor, command(change("1", by=-6), tenant_id="acme"))
        rich = ask(executor, command(change("1", by=-6), tenant_id="umbrella"))
        assert await poor.reason() == "INSUFFICIENT_BALANCE"
        assert (await rich.receipt()).version == 2


async def test_the_rules_decide_and_nothing_else(log: EventLog) -> None:
    async with running(log) as executor:
        await done(executor, create("ada", balance=3), change("ada", by=-2))
        error = await ask(executor, change("ada", by=-2)).error()
        assert error.reason == "INSUFFICIENT_BALANCE"
        assert error.metadata == {
            "balance": "1",
            "aggregate_type": USER_RULES.aggregate.name,
            "aggregate_id": "ada",
        }
    created, _ = await payloads_of(log, user())
    unseal_event(created, user(), 1, KEYS.keys[user()])
    assert created == UserCreated(username="Ada", balance=3)
    assert log.head.position == 2
