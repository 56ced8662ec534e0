"""What a log in PostgreSQL does when the server, or the way to it, fails."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asyncpg.pool import PoolConnectionHolder

from examples.postgres import PostgresServer, postgres_server
from shared.errors import Unavailable
from shared.log import postgres
from shared.log.log import Committed, OutcomeUnknown
from shared.log.postgres import PostgresLog, connecting, listening, writing
from shared.log.postgres.connecting import SETTINGS, Database
from tests.log.builders import command, commit, ship, snapshot
from tests.log.contract import PATIENCE_S
from tests.log.reading import events_of, positions_of, records_of
from tests.log.test_postgres_log import connected, opened
from tests.postgres.databases import Databases
from tests.torture.proxy import Mode, Proxy

LONG_S = 20.0
"""For what takes the server a while."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    with Databases(server.url).empty() as url:
        yield url


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "RETRY_S", 0.05)
    monkeypatch.setattr(writing, "RETRY_S", 0.05)


@asynccontextmanager
async def through_proxy(
    url: str, server: PostgresServer
) -> AsyncIterator[tuple[PostgresLog, Proxy]]:
    direct = f"127.0.0.1:{server.port}"
    async with Proxy.to(direct) as proxy, opened(url.replace(direct, proxy.address)) as log:
        await log.append([commit(ship())])
        yield log, proxy


async def until(url: str, condition: str) -> None:
    """Returns once something is true of the server."""
    async with connected(url) as connection, asyncio.timeout(LONG_S):
        while not await connection.fetchval("SELECT " + condition):  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.02)


async def alter(url: str, *statements: str) -> None:
    """Changes the server's configuration, and returns when that is in force."""
    async with connected(url) as connection, asyncio.timeout(LONG_S):
        for statement in statements:
            await connection.execute(f"ALTER SYSTEM {statement}")
        loaded = await connection.fetchval("SELECT pg_conf_load_time()")
        await connection.execute("SELECT pg_reload_conf()")
        while loaded == await connection.fetchval("SELECT pg_conf_load_time()"):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.02)


async def lose_standby(url: str) -> None:
    """From now on no commit is answered, for want of a standby."""
    await alter(url, "SET synchronous_standby_names = 'absent'")
    async with connected(url) as connection, asyncio.timeout(LONG_S):
        # A process of the server's own has to take that up, too, and says so to nobody.
        while True:
            try:
                await connection.execute("UPDATE log_head SET fence = fence", timeout=1)
            except TimeoutError:
                return


# The server


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_server_that_is_away_is_said_at_once_and_got_over(
    url: str, server: PostgresServer, end: str
) -> None:
    async with opened(url) as log:
        await log.append([commit(ship(), events=3, command=command(0))])

        await asyncio.to_thread(getattr(server, end))
        try:
            with pytest.raises(Unavailable) as refusal:
                await asyncio.wait_for(log.read_aggregate(ship()), PATIENCE_S)
            assert refusal.value.reason == "LOG_UNAVAILABLE"
            with pytest.raises(Unavailable):
                await asyncio.wait_for(log.append([commit(ship(), 3)]), PATIENCE_S)
        finally:
            await asyncio.to_thread(server.start)

        assert await asyncio.wait_for(log.append([commit(ship(), 3)]), LONG_S) == [Committed(4)]
        assert positions_of(await records_of(log)) == [1, 2, 3, 4]


async def test_nothing_is_lost_though_the_server_is_killed_at_work(
    url: str, server: PostgresServer
) -> None:
    acknowledged: dict[str, int] = {}

    async def work(log: PostgresLog, name: str) -> None:
        for number in range(1_000_000):
            try:
                [outcome] = await log.append([commit(ship(f"{name} {number}"))])
            except Unavailable:
                # Known not to be written.
                continue
            assert isinstance(outcome, Committed)
            acknowledged[f"{name} {number}"] = outcome.position

    async with opened(url) as one, opened(url) as other:
        working = [asyncio.create_task(work(log, name)) for log, name in ((one, "a"), (other, "b"))]
        for _ in range(2):
            position = one.head.position
            await asyncio.wait_for(one.wait(position + 30), LONG_S)
            await asyncio.wait_for(other.wait(position + 30), LONG_S)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await asyncio.wait_for(one.wait(one.head.position + 30), LONG_S)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    async with opened(url) as log:
        found = {event.aggregate_id: event.position for event in await events_of(log)}
    assert acknowledged.items() <= found.items()
    # What was being written when its task was cancelled may be there, too; nothing else.
    assert len(found) <= len(acknowledged) + 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["SET fsync = off"], "fsync=off"),
        (
            ["SET synchronous_commit = local", "SET synchronous_standby_names = 'somebody'"],
            "synchronous_commit=local",
        ),
    ],
)
async def test_a_server_that_can_lose_what_it_has_acknowledged_is_refused(
    url: str, settings: list[str], said: str
) -> None:
    await alter(url, *settings)
    try:
        with pytest.raises(Unavailable, match=said) as refusal:
            await PostgresLog.open(url)
        assert refusal.value.reason == "LOG_NOT_DURABLE"

        log = await PostgresLog.open(url, allow_data_loss=True)
        assert await log.append([commit(ship())]) == [Committed(1)]
        await log.close()
    finally:
        await alter(url, "RESET ALL")


async def test_a_server_that_is_not_what_the_url_asks_for_is_not_taken(url: str) -> None:
    with pytest.raises(Unavailable) as refusal:
        await PostgresLog.open(f"{url}&target_session_attrs=standby")
    assert refusal.value.reason == "LOG_UNAVAILABLE"

    async with opened(f"{url}&target_session_attrs=read-write") as log:
        assert await log.append([commit(ship())]) == [Committed(1)]


async def test_a_receipt_waits_for_the_standby_whatever_the_time_limits(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "statement_timeout", "1s")
    async with opened(url) as log:
        await log.append([commit(ship())])
        await lose_standby(url)
        try:
            appending = asyncio.create_task(log.append([commit(ship(), 1)]))
            waits = "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            await until(url, waits + " AND now() - query_start > '1200ms')")
            assert not appending.done()
            assert log.head.position == 1

            # Nor does it end because its caller has gone.
            appending.cancel()
            await until(url, waits + " AND now() - query_start > '1500ms')")
            assert log.head.position == 1
        finally:
            await alter(url, "RESET ALL")

        await asyncio.wait_for(log.wait(1), LONG_S)
        assert await log.append([commit(ship(), 2)]) == [Committed(3)]


async def test_what_the_standby_may_not_have_is_shown_to_nobody_after_a_kill(
    url: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "READY_S", 0.5)
    async with opened(url) as log:
        await log.append([commit(ship())])
        await lose_standby(url)
        try:
            appending = asyncio.create_task(log.append([commit(ship(), 1, command=command(1))]))
            await until(url, "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')")
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

            # The server has recovered the event, and knows nothing of the standby's answer.
            await until(url, "max(position) = 2 FROM log_events")
            with pytest.raises(Unavailable):
                await log.receipts([command(1)])
            with pytest.raises(Unavailable):
                await log.newest()
            assert not appending.done()
        finally:
            await alter(url, "RESET ALL")

        assert await asyncio.wait_for(appending, LONG_S) == [Committed(2)]
        assert set(await log.receipts([command(1)])) == {command(1)}


# The way to it


async def test_a_commit_whose_answer_was_lost_is_answered_all_the_same(
    url: str, server: PostgresServer
) -> None:
    async with through_proxy(url, server) as (log, proxy), opened(url) as witness:
        proxy.delay_s = 0.3
        appending = asyncio.create_task(log.append([commit(ship(), 1, command=command(1))]))
        await asyncio.wait_for(witness.wait(1), LONG_S)
        # It is written, and the answer is on its way.
        proxy.set(Mode.CUT)
        proxy.delay_s = 0
        proxy.set(Mode.PASS)

        assert await asyncio.wait_for(appending, LONG_S) == [Committed(2)]
        assert log.head == witness.head


async def test_a_commit_that_did_not_arrive_is_said_not_to_be_written(
    url: str, server: PostgresServer
) -> None:
    async with through_proxy(url, server) as (log, proxy):
        proxy.delay_s = 0.3
        appending = asyncio.create_task(log.append([commit(ship(), 1, command=command(1))]))
        await asyncio.sleep(0.1)
        proxy.set(Mode.CUT)
        proxy.delay_s = 0
        proxy.set(Mode.PASS)

        with pytest.raises(Unavailable):
            await asyncio.wait_for(appending, LONG_S)
        assert await log.receipts([command(1)]) == {}
        assert await log.append([commit(ship(), 1, command=command(1))]) == [Committed(2)]


async def test_a_commit_that_the_server_is_still_about_is_waited_for(
    url: str, server: PostgresServer
) -> None:
    async with through_proxy(url, server) as (log, proxy), connected(url) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(writing.LOCK)
        appending = asyncio.create_task(log.append([commit(ship(), 1)]))
        await until(
            url, "EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid')"
        )
        # The server is not aware that the connection is gone, and writes when its turn comes.
        proxy.set(Mode.CUT)
        proxy.set(Mode.PASS)
        await until(url, "(SELECT count(*) > 1 FROM pg_locks WHERE NOT granted)")
        await transaction.rollback()

        assert await asyncio.wait_for(appending, LONG_S) == [Committed(2)]
        assert positions_of(await records_of(log)) == [1, 2]


async def test_a_server_that_falls_silent_is_asked_on_another_connection(
    url: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SILENCE_S", 0.3)
    async with through_proxy(url, server) as (log, proxy):
        # Both connections on which it writes exist.
        await asyncio.gather(log.append([commit(ship(), 1)]), log.keep({ship(): snapshot(1)}))
        # What goes to and fro on the connections of this time is lost, and they stay open.
        proxy.set(Mode.SILENT)
        proxy.set(Mode.PASS)

        with pytest.raises(Unavailable):
            await asyncio.wait_for(log.append([commit(ship(), 2)]), LONG_S)
        assert await log.append([commit(ship(), 2)]) == [Committed(3)]


async def test_a_commit_is_acknowledged_though_its_connection_is_lost_right_after_the_answer(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = PoolConnectionHolder.release

    async def lose(self: Any, timeout: float | None) -> None:  # noqa: ASYNC109  # asyncpg's
        self._con.terminate()
        await release(self, timeout)

    async with opened(url) as log:
        with monkeypatch.context() as patch:
            patch.setattr(PoolConnectionHolder, "release", lose)
            assert await log.append([commit(ship())]) == [Committed(1)]
            assert len(await log.read_aggregate(ship())) == 1

        assert await log.append([commit(ship(), 1)]) == [Committed(2)]


async def test_who_reads_does_not_wait_for_a_silent_server_without_end(
    url: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "ANSWER_S", 0.3)
    async with through_proxy(url, server) as (log, proxy):
        # Several connections exist; that one is silent is said of all.
        await asyncio.gather(*(log.read_aggregate(ship()) for _ in range(4)))
        proxy.set(Mode.SILENT)
        proxy.set(Mode.PASS)

        with pytest.raises(Unavailable):
            await asyncio.wait_for(log.read_aggregate(ship()), PATIENCE_S)
        assert len(await asyncio.wait_for(log.read_aggregate(ship()), PATIENCE_S)) == 1
        # And of those on which it writes.
        appending = log.append([commit(ship(), 1)])
        assert await asyncio.wait_for(appending, PATIENCE_S) == [Committed(2)]

        # Nor does who closes the log.
        proxy.set(Mode.SILENT)
        reading = asyncio.create_task(log.read_aggregate(ship()))
        await asyncio.sleep(0)
        await asyncio.wait_for(log.close(), LONG_S)
        with pytest.raises(Unavailable):
            await reading
        proxy.set(Mode.PASS)


async def test_a_connection_to_a_silent_server_is_cut_off_rather_than_closed(
    url: str, server: PostgresServer
) -> None:
    async def prepare(_: object) -> None:
        """Nothing is needed of it."""

    direct = f"127.0.0.1:{server.port}"
    async with Proxy.to(direct) as proxy:
        connection = await Database(url.replace(direct, proxy.address)).connect(prepare)
        proxy.set(Mode.SILENT)
        await connection.close(timeout=0.2)

    assert connection.is_closed()


async def test_an_outcome_that_cannot_be_found_out_is_unknown(
    url: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "RESOLVE_S", 0.5)
    async with through_proxy(url, server) as (log, proxy):
        proxy.delay_s = 0.3
        appending = asyncio.create_task(log.append([commit(ship(), 1)]))
        await asyncio.sleep(0.1)
        proxy.set(Mode.CUT)

        with pytest.raises(OutcomeUnknown):
            await asyncio.wait_for(appending, LONG_S)


async def test_connections_that_are_cut_all_the_time_lose_nothing(
    url: str, server: PostgresServer
) -> None:
    async with through_proxy(url, server) as (log, proxy):
        outcomes = []
        for version in range(1, 15):
            appending = asyncio.create_task(log.append([commit(ship(), version)]))
            await asyncio.sleep(0.003 * (version % 5))
            proxy.set(Mode.CUT)
            proxy.set(Mode.PASS)
            try:
                outcomes += await asyncio.wait_for(appending, LONG_S)
            except Unavailable:
                outcomes += await asyncio.wait_for(log.append([commit(ship(), version)]), LONG_S)
        assert outcomes == [Committed(version + 1) for version in range(1, 15)]
        assert positions_of(await records_of(log)) == list(range(1, 16))
