"""A tenant that sends more than can be done waits for itself alone."""

import asyncio

import pytest

from command_service.admission import PLACES
from command_service.arrivals import Arrivals
from command_service.calls import Call, Pending
from command_service.executor import MAX_DECIDED
from shared.errors import Exhausted
from tests.executor.asking import ask, running, turns, within
from tests.executor.commands import change, command, create, register
from tests.executor.logs import GatedLog


def pending(tenant_id: str, sequence: int) -> Pending:
    return Pending(command(change(), tenant_id=tenant_id), Call(1, None, 0.0), 0, sequence)


def taken(batch: list[Pending]) -> list[tuple[str, int]]:
    return [(each.command.key.tenant_id, each.sequence) for each in batch]


async def test_one_tenant_alone_is_taken_in_its_order() -> None:
    arrivals = Arrivals()
    for number in range(5):
        arrivals.add(pending("a", number))

    assert taken(arrivals.take(3)) == [("a", 0), ("a", 1), ("a", 2)]
    assert taken(arrivals.take(3)) == [("a", 3), ("a", 4)]
    assert not arrivals


async def test_a_tenant_behind_a_crowd_of_anothers_has_its_share_of_the_next_batch() -> None:
    arrivals = Arrivals()
    for number in range(1000):
        arrivals.add(pending("crowd", number))
    arrivals.add(pending("one", 1000))

    batch = taken(arrivals.take(10))

    assert ("one", 1000) in batch
    assert [number for tenant_id, number in batch if tenant_id == "crowd"] == list(range(9))


async def test_more_tenants_than_a_batch_has_room_for_take_turns() -> None:
    arrivals = Arrivals()
    for number in range(6):
        for tenant_id in ("a", "b", "c"):
            arrivals.add(pending(tenant_id, number))

    batches = [taken(arrivals.take(2)) for _ in range(3)]

    assert [tenant_id for batch in batches for tenant_id, _ in batch] == ["a", "b", "c"] * 2


async def test_what_is_put_back_comes_before_what_came_later() -> None:
    arrivals = Arrivals()
    for number in range(4):
        arrivals.add(pending("a", number))
    first = arrivals.take(2)

    arrivals.put_back(first[::-1])

    assert taken(arrivals.take(9)) == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]


async def test_a_command_waits_for_few_of_those_that_another_tenant_has_sent_before(
    exclusive_log: GatedLog,
) -> None:
    async with running(exclusive_log) as executor:
        await within(executor.execute(command(create(), tenant_id="crowd")))
        exclusive_log.appending.hold(1)
        crowd = [command(change(), tenant_id="crowd") for _ in range(4000)]
        of_crowd = executor.submit(crowd)
        append = await exclusive_log.appending.arrival()
        await turns()
        of_one = asyncio.create_task(executor.execute(command(create(), tenant_id="one")))
        await turns()
        append.let_go()

        receipt = await within(of_one)

        assert receipt.position <= 3 * MAX_DECIDED
        assert len(await within(of_crowd)) == 4000


async def test_past_its_limit_a_tenant_is_turned_away_and_others_are_not(
    exclusive_log: GatedLog,
) -> None:
    async with running(exclusive_log, max_per_tenant=2) as executor:
        exclusive_log.appending.hold(1)
        for number in range(2):
            ask(executor, create(f"{number}"))
        append = await exclusive_log.appending.arrival()

        with pytest.raises(Exhausted) as turned_away:
            await within(executor.execute(command(create("3"))))
        of_another = asyncio.create_task(executor.execute(command(create(), tenant_id="other")))
        await turns()
        append.let_go()

        assert (await within(of_another)).version == 1
        assert (await within(executor.execute(command(create("3"))))).version == 1
    assert turned_away.value.reason == "TOO_MANY_COMMANDS"
    assert turned_away.value.metadata == {"limit": "2"}


async def test_a_tenants_stream_waits_for_room_of_its_own(exclusive_log: GatedLog) -> None:
    async with running(exclusive_log, max_per_tenant=2) as executor:
        exclusive_log.appending.hold(1)
        ask(executor, register())
        append = await exclusive_log.appending.arrival()
        waiting = asyncio.create_task(executor.room("acme", 2))
        await within(executor.room("other", 2))
        await turns()
        assert not waiting.done()

        append.let_go()
        await within(waiting)
        await within(executor.room("acme", 1000))


async def test_calls_that_wait_for_their_turn_are_in_flight(exclusive_log: GatedLog) -> None:
    async with running(exclusive_log, max_per_tenant=20) as executor:
        exclusive_log.appending.hold(1)
        of_one = asyncio.create_task(executor.execute(command(create("0"), tenant_id="one")))
        append = await exclusive_log.appending.arrival()
        crowd = [
            asyncio.create_task(executor.execute(command(create(f"{number}"))))
            for number in range(20)
        ]
        await turns()

        assert executor.in_flight == 1 + 20
        assert executor.decided < PLACES
        with pytest.raises(Exhausted) as turned_away:
            await within(executor.execute(command(create("20"))))
        append.let_go()

        assert turned_away.value.metadata == {"limit": "20"}
        assert (await within(of_one)).version == 1
        assert [(await within(each)).version for each in crowd] == [1] * 20
        assert executor.in_flight == 0
