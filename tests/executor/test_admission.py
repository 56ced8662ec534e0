"""While several tenants call, only a few calls are under way, and each tenant has its share."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_service.admission import (
    CONTESTED_S,
    MAX_SLOWNESS,
    PLACES,
    QUICK_COMMIT_S,
    Admission,
)
from tests.executor.asking import turns


class Caller:
    """A call that is under way, once it may go on, until it is told to end."""

    def __init__(self, admission: Admission, tenant_id: str) -> None:
        self.tenant_id = tenant_id
        self.is_under_way = False
        self._end = asyncio.Event()
        self._call = asyncio.create_task(self._run(admission))

    async def _run(self, admission: Admission) -> None:
        async with admission.one(self.tenant_id):
            self.is_under_way = True
            await self._end.wait()
        self.is_under_way = False

    def end(self) -> None:
        self._end.set()

    def hang_up(self) -> None:
        self._call.cancel()

    async def ended(self) -> None:
        await asyncio.gather(self._call, return_exceptions=True)
        self.is_under_way = False


@asynccontextmanager
async def calling(admission: Admission, *tenant_ids: str) -> AsyncIterator[list[Caller]]:
    """Calls of tenants, in this order, that have gone on if they may."""
    callers = [Caller(admission, each) for each in tenant_ids]
    await turns()
    try:
        yield callers
    finally:
        for each in callers:
            each.end()
        await asyncio.gather(*(each.ended() for each in callers))


def under_way(callers: list[Caller]) -> Counter[str]:
    return Counter(each.tenant_id for each in callers if each.is_under_way)


@pytest.fixture
async def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the event loop's clock on."""
    loop = asyncio.get_running_loop()
    now = loop.time()

    def pass_seconds(seconds: float) -> None:
        nonlocal now
        now += seconds
        monkeypatch.setattr(loop, "time", lambda: now)

    return pass_seconds


async def test_all_calls_of_a_tenant_that_is_alone_go_on_at_once() -> None:
    async with calling(Admission(), *(["crowd"] * 100)) as callers:
        assert under_way(callers) == {"crowd": 100}


async def test_beside_another_tenant_only_a_few_of_a_crowd_go_on() -> None:
    admission = Admission()
    async with calling(admission, "one", *(["crowd"] * 100)) as callers:
        assert under_way(callers) == {"one": 1, "crowd": PLACES - 1}
        assert admission.waiting == 100 - (PLACES - 1)
        assert admission.waiting_of("crowd") == admission.waiting
        assert admission.waiting_of("one") == 0


async def test_a_tenant_that_has_no_call_goes_on_though_every_place_is_taken() -> None:
    admission = Admission()
    async with (
        calling(admission, "one", *(["crowd"] * 100)),
        calling(admission, "another", "another") as callers,
    ):
        assert [each.is_under_way for each in callers] == [True, False]


async def test_a_place_goes_to_the_tenant_that_has_the_fewest() -> None:
    admission = Admission()
    order = ["one", *(["crowd"] * 20), *(["one"] * 2), "crowd"]
    async with calling(admission, *order) as callers:
        first = [each for each in callers if each.is_under_way]
        went_on = []
        for each in first[1:5]:
            others = under_way(callers) - Counter([each.tenant_id])
            each.end()
            await turns()
            [tenant_id] = under_way(callers) - others
            went_on.append(tenant_id)

    assert went_on == ["one", "one", "crowd", "crowd"]


async def test_those_who_wait_go_on_once_a_tenant_has_been_alone_for_a_while(
    pass_time: Callable[[float], None],
) -> None:
    admission = Admission()
    async with calling(admission, "one", *(["crowd"] * 100)) as callers:
        pass_time(2 * CONTESTED_S)
        callers[0].end()
        await turns()

        assert under_way(callers) == {"crowd": 100}


async def test_a_commit_that_takes_for_ever_does_not_let_everybody_go_on() -> None:
    admission = Admission()
    admission.committed_in(3600)
    async with calling(admission, "one", *(["crowd"] * 100)) as callers:
        assert under_way(callers) == {"one": 1, "crowd": MAX_SLOWNESS * PLACES - 1}


async def test_the_longer_a_commit_takes_the_more_calls_are_under_way() -> None:
    admission = Admission()
    for _ in range(100):
        admission.committed_in(3 * QUICK_COMMIT_S)
    async with calling(admission, "one", *(["crowd"] * 100)) as callers:
        assert under_way(callers) == {"one": 1, "crowd": 3 * PLACES - 1}

    for _ in range(100):
        admission.committed_in(QUICK_COMMIT_S / 10)
    async with calling(admission, "one", *(["crowd"] * 100)) as callers:
        assert under_way(callers) == {"one": 1, "crowd": PLACES - 1}


async def test_who_hangs_up_while_waiting_takes_no_place() -> None:
    admission = Admission()
    async with calling(admission, "one", *(["crowd"] * 20)) as callers:
        waiting = [each for each in callers if not each.is_under_way]
        for each in waiting[:-1]:
            each.hang_up()
        await turns()
        assert admission.waiting == 1
        callers[0].end()
        await turns()

        assert waiting[-1].is_under_way
        assert admission.waiting == 0


async def test_who_hangs_up_in_the_moment_of_going_on_gives_the_place_to_the_next() -> None:
    admission = Admission()
    async with calling(admission, "one", *(["crowd"] * 20)) as callers:
        first, second, *_ = [each for each in callers if not each.is_under_way]
        callers[0].end()
        await asyncio.sleep(0)
        assert admission.waiting == len(callers) - 1 - PLACES, "it has not been told yet"
        assert not first.is_under_way, "it has been told, and has gone on"
        first.hang_up()
        await turns()

        assert not first.is_under_way
        assert second.is_under_way


steps = st.lists(
    st.tuples(st.sampled_from(["call", "call", "end", "hang up"]), st.integers(0, 30)),
    max_size=60,
)


@settings(deadline=None)
@given(steps=steps)
def test_whoever_calls_and_ends_no_place_is_lost_and_none_too_many_is_given(
    steps: list[tuple[str, int]],
) -> None:
    async def scenario() -> None:
        admission = Admission()
        callers: list[Caller] = []
        for step, number in steps:
            if step == "call":
                callers.append(Caller(admission, "abc"[number % 3]))
            elif callers:
                caller = callers[number % len(callers)]
                caller.end() if step == "end" else caller.hang_up()
            for _ in range(number % 3):
                await asyncio.sleep(0)
        for each in callers:
            each.end()
        await asyncio.gather(*(each.ended() for each in callers))

        assert admission.waiting == 0
        async with calling(admission, "one", *(["crowd"] * 100)) as crowd:
            assert under_way(crowd) == {"one": 1, "crowd": 3 - 1}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("command_service.admission.PLACES", 3)
        asyncio.run(scenario())
