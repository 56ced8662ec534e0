"""How long a query service keeps what it was given to decrypt with."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import grpc
import pytest

from query_service.keys import KEPT_S, UpstreamKeys
from shared.aggregates.user import USER
from shared.errors import DataLoss, Unavailable
from shared.log.log import EVERYTHING, MAX_PAGE_EVENTS, AggregateKey, Commit, EventFilter, Page
from shared.log.memory import MemoryLog
from shared.personal.sealing import DESTROYED, KEY_BYTES, Keys
from shared.security.upstream import Upstream
from tests.log.builders import event, user
from tests.services.answers import standing_in
from tests.services.commanding import of, send
from tests.services.deployment import Deployment, reason_of
from tests.torture.proxy import Mode, Proxy
from tidemark.v1.personal_pb2 import GetKeysRequest, GetKeysResponse, PersonalKey
from tidemark.v1.user_pb2 import CreateUser, EraseUser, UserCreated, UserErased

pytestmark = pytest.mark.timeout(60)

ADA = user("ada", "default")
CREATE = CreateUser(username="Ada")


@asynccontextmanager
async def keys_from(deployed: Deployment, copy: MemoryLog) -> AsyncIterator[UpstreamKeys]:
    """Those of a query service with a copy of the log that the test says everything of."""
    async with keys_of(deployed.command.address, copy) as keys:
        yield keys


@asynccontextmanager
async def keys_of(upstream: str, copy: MemoryLog) -> AsyncIterator[UpstreamKeys]:
    """The same, from a service at an address."""
    keys = UpstreamKeys(Upstream(upstream=upstream), copy, [USER])
    try:
        yield keys
    finally:
        await keys.close()


async def test_a_key_is_kept_for_a_while_and_no_longer(
    own: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(own.commands, of("ada", CREATE))
    async with keys_from(own, MemoryLog()) as keys:
        found = await keys.find([ADA])
        assert len(found[ADA]) == KEY_BYTES
        await own.command.kill()
        assert await keys.find([ADA]) == found
        later = time.monotonic() + KEPT_S
        monkeypatch.setattr("query_service.keys.time", SimpleNamespace(monotonic=lambda: later))
        with pytest.raises(Unavailable, match="KEYS_UNAVAILABLE"):
            await keys.find([ADA])


async def test_a_connection_that_is_dead_is_given_up_though_no_caller_waits_for_so_long(
    own: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("query_service.keys.ANSWER_S", 1.0)
    others = [user(f"other {number}", "default") for number in range(2)]
    for each in (ADA, *others):
        await send(own.commands, of(each.aggregate_id, CREATE))
    async with (
        Proxy.to(own.command.address) as proxy,
        keys_of(proxy.address, MemoryLog()) as keys,
    ):
        await keys.find([ADA])
        proxy.set(Mode.SILENT)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await keys.find(others)
        proxy.set(Mode.PASS)

        found: Keys = {}
        async with asyncio.timeout(20):
            while not found:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        found = await keys.find(others)

        assert found.keys() == set(others)


async def test_a_key_is_gone_when_the_copy_of_the_log_says_that_it_was_destroyed(
    own: Deployment,
) -> None:
    copy = MemoryLog()
    await send(own.commands, of("ada", CREATE))
    async with keys_from(own, copy) as keys:
        await keys.find([ADA])
        await own.command.kill()
        await copy.append([Commit(ADA, 0, [event(ADA, 1, UserCreated(username="x"))])])
        assert (await keys.find([ADA]))[ADA] != DESTROYED
        await copy.append([Commit(ADA, 1, [event(ADA, 2, UserErased())])])
        assert await keys.find([ADA]) == {ADA: DESTROYED}


class ReadInPages(MemoryLog):
    """Gives two events at a time, after others have had their turn, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = 0
        self.is_read = asyncio.Event()

    async def read(
        self,
        after: int,
        limit: int = MAX_PAGE_EVENTS,
        event_filter: EventFilter = EVERYTHING,
        until: int | None = None,
    ) -> Page:
        self.pages += 1
        await asyncio.sleep(0)
        page = await super().read(after, limit, event_filter, min(after + 2, self.head.position))
        if page.position == self.head.position:
            self.is_read.set()
        return page


async def test_the_log_is_looked_through_before_anybody_asks() -> None:
    copy = ReadInPages()
    events = [event(ADA, 1, UserCreated(username="x")), event(ADA, 2, UserErased())]
    await copy.append([Commit(ADA, 0, events)])
    async with keys_of("127.0.0.1:1", copy) as keys:
        running = asyncio.create_task(keys.run())
        await copy.is_read.wait()

        assert await keys.find([ADA]) == {ADA: DESTROYED}

        running.cancel()
    assert copy.pages == 1


async def test_many_who_ask_at_once_have_the_log_looked_through_once_for_all_of_them(
    own: Deployment,
) -> None:
    copy = ReadInPages()
    users = [user(f"user {number}", "default") for number in range(10)]
    created = UserCreated(username="x")
    await copy.append([Commit(each, 0, [event(each, 1, created)]) for each in users])
    await copy.append([Commit(users[9], 1, [event(users[9], 2, UserErased())])])
    for each in users:
        await send(own.commands, of(each.aggregate_id, CREATE))
    async with keys_from(own, copy) as keys:
        found = await asyncio.gather(*(keys.find([each]) for each in users))

    assert copy.pages == 6
    is_destroyed = [
        keys_of_one[each] == DESTROYED for each, keys_of_one in zip(users, found, strict=True)
    ]
    assert is_destroyed == [False] * 9 + [True]


class SlowKeys:
    """A key service that answers when it is told to, and notes whom it was asked for."""

    def __init__(self, *, without: str = "") -> None:
        self._without = without
        self.asked: asyncio.Queue[set[str]] = asyncio.Queue()
        self.may_answer = asyncio.Event()

    async def get_keys(
        self, request: GetKeysRequest, _: grpc.aio.ServicerContext[object, object]
    ) -> GetKeysResponse:
        self.asked.put_nowait(set(request.aggregate_ids))
        await self.may_answer.wait()
        there = [each for each in request.aggregate_ids if each != self._without]
        return GetKeysResponse(
            keys=[PersonalKey(aggregate_id=each, key=each.encode()) for each in there]
        )


@asynccontextmanager
async def serving(slow: SlowKeys) -> AsyncIterator[str]:
    handler = grpc.unary_unary_rpc_method_handler(
        slow.get_keys,
        request_deserializer=GetKeysRequest.FromString,
        response_serializer=GetKeysResponse.SerializeToString,
    )
    async with standing_in("tidemark.v1.KeyService", "GetKeys", handler) as address:
        yield address


USERS = [user(f"user {number}", "default") for number in range(1500)]


def asking(keys: UpstreamKeys, users: Sequence[AggregateKey]) -> asyncio.Task[Keys]:
    return asyncio.create_task(keys.find(users))


async def test_what_is_wanted_while_the_upstream_is_asked_is_asked_for_at_once_after_that() -> None:
    slow = SlowKeys(without="user 7")
    async with serving(slow) as address, keys_of(address, MemoryLog()) as keys:
        first = asking(keys, USERS[:1])
        assert await slow.asked.get() == {"user 0"}
        others = [asking(keys, [each]) for each in USERS[1:20]]
        gives_up = asking(keys, USERS[20:21])
        of_another_tenant = asking(keys, [user("eve", "acme")])
        assert await slow.asked.get() == {"eve"}
        gives_up.cancel()
        slow.may_answer.set()

        found = await asyncio.gather(first, *others, return_exceptions=True)

        assert (await of_another_tenant).keys() == {user("eve", "acme")}
        assert await slow.asked.get() == {each.aggregate_id for each in USERS[1:21]}
        assert await keys.find(USERS[20:21]) == {USERS[20]: b"user 20"}
        assert slow.asked.empty()
    lost = found.pop(7)
    assert isinstance(lost, DataLoss)
    assert lost.reason == "KEY_LOST"
    assert found == [{each: each.aggregate_id.encode()} for each in USERS[:20] if each != USERS[7]]


async def test_a_key_that_has_come_meanwhile_is_not_asked_for_again() -> None:
    slow = SlowKeys()
    async with serving(slow) as address, keys_of(address, MemoryLog()) as keys:
        first = asking(keys, USERS[:1000])
        await slow.asked.get()
        others = [asking(keys, USERS[:1000]) for _ in range(3)]
        more = asking(keys, USERS[:1])
        await asyncio.sleep(0)
        slow.may_answer.set()

        found = await asyncio.gather(first, *others)

        assert found == [{each: each.aggregate_id.encode() for each in USERS[:1000]}] * 4
        assert await more == {USERS[0]: b"user 0"}
        assert slow.asked.empty()


async def test_what_is_too_much_for_the_next_question_waits_for_none() -> None:
    slow = SlowKeys()
    async with serving(slow) as address, keys_of(address, MemoryLog()) as keys:
        first = asking(keys, USERS[:500])
        assert len(await slow.asked.get()) == 500
        second = asking(keys, USERS[400:1100])
        third = asking(keys, USERS[900:])

        assert await slow.asked.get() == {each.aggregate_id for each in USERS[900:]}

        slow.may_answer.set()
        found = await asyncio.gather(first, second, third)
        assert [len(each) for each in found] == [500, 700, 600]


async def test_whoever_waits_for_a_key_when_the_service_ends_is_let_go() -> None:
    slow = SlowKeys()
    async with serving(slow) as address:
        async with keys_of(address, MemoryLog()) as keys:
            first = asking(keys, USERS[:1])
            await slow.asked.get()
            second = asking(keys, USERS[1:2])
            await asyncio.sleep(0)

        ended = await asyncio.gather(first, second, return_exceptions=True)

    assert [type(each) for each in ended] == [asyncio.CancelledError] * 2


async def test_whom_the_copy_of_the_log_calls_erased_is_so_whatever_the_upstream_has(
    own: Deployment,
) -> None:
    copy = MemoryLog()
    events = [event(ADA, 1, UserCreated(username="x")), event(ADA, 2, UserErased())]
    await copy.append([Commit(ADA, 0, events)])
    await send(own.commands, of("ada", CREATE))
    async with keys_from(own, copy) as keys:
        assert await keys.find([ADA]) == {ADA: DESTROYED}


async def test_a_key_that_comes_when_its_destruction_is_known_already_is_not_used(
    own: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = MemoryLog()
    await send(own.commands, of("ada", CREATE))
    async with keys_from(own, copy) as keys:
        connect = Upstream.connect

        async def late(upstream: Upstream) -> object:
            # Between the question and the answer, as the copy hears of it.
            events = [event(ADA, 1, UserCreated(username="x")), event(ADA, 2, UserErased())]
            await copy.append([Commit(ADA, 0, events)])
            return await connect(upstream)

        monkeypatch.setattr(Upstream, "connect", late)
        assert await keys.find([ADA]) == {ADA: DESTROYED}
        assert await keys.find([ADA]) == {ADA: DESTROYED}


async def test_what_the_upstream_has_destroyed_is_destroyed_and_what_it_lacks_is_lost(
    own: Deployment,
) -> None:
    await send(own.commands, of("ada", CREATE))
    await send(own.commands, of("ada", EraseUser()))
    async with keys_from(own, MemoryLog()) as keys:
        assert await keys.find([ADA]) == {ADA: DESTROYED}
        with pytest.raises(DataLoss, match="KEY_LOST"):
            await keys.find([ADA, user("eve", "default")])


@pytest.mark.parametrize("served_by", ["commands", "queries"])
async def test_nobody_asks_for_more_keys_at_once_than_there_may_be(
    own: Deployment, served_by: str
) -> None:
    client = getattr(own, served_by)
    for ids in (["x"] * 1001, [""], ["x" * 129], ["\n"]):
        request = GetKeysRequest(aggregate_type="user", aggregate_ids=ids)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client.keys.GetKeys(request, timeout=10)
        assert reason_of(raised.value) == "INVALID_FIELD"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.keys.GetKeys(GetKeysRequest(aggregate_type="house"), timeout=10)
    assert reason_of(raised.value) == "INVALID_FIELD"
    nobody = GetKeysRequest(aggregate_type="user")
    assert list((await client.keys.GetKeys(nobody, timeout=10)).keys) == []
