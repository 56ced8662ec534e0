import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from shared.errors import DataLoss, Exhausted, Unavailable
from shared.log.log import Committed, Duplicate, WrongVersion
from shared.log.postgres import PostgresLog, listening, writing
from shared.log.postgres.connecting import SETTINGS
from shared.log.postgres.group import Group, Known
from shared.log.postgres.schema import HEAD, MIGRATIONS
from tests.log.builders import NOON, Clock, command, commit, ship, user
from tests.log.contract import PATIENCE_S, LogContract
from tests.log.reading import digests_of, positions_of, records_of, versions_of
from tests.postgres.databases import execute

NEVER_S = 1000.0


class TestPostgresLog(LogContract):
    @pytest.fixture
    async def log(self, module_postgres_url: str, clock: Clock) -> AsyncIterator[PostgresLog]:
        async with opened(module_postgres_url, clock) as log:
            yield log
        # Sooner done than another place for the next.
        await execute(
            module_postgres_url,
            "DELETE FROM log_events; DELETE FROM log_snapshots;"
            " UPDATE log_head SET position = 0, digest = decode(repeat('00', 32), 'hex'), time = 0",
        )


@asynccontextmanager
async def opened(url: str, clock: Clock | None = None) -> AsyncIterator[PostgresLog]:
    log = await (PostgresLog.open(url, clock=clock) if clock else PostgresLog.open(url))
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def deaf(_: listening.Listener) -> None:
    """Hears nothing."""


# Several processes, as several logs of one


@pytest.mark.parametrize("attempts", [writing.OPTIMISTIC_ATTEMPTS, 0])
async def test_of_several_writers_one_wins_each_version(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    monkeypatch.setattr(writing, "OPTIMISTIC_ATTEMPTS", attempts)

    async def write(log: PostgresLog, number: int) -> list[int]:
        """The positions of ten versions of its own making."""
        won: list[int] = []
        version = 0
        while len(won) < 10:
            [mine, contested] = await log.append(
                [commit(ship(f"{number}"), len(won)), commit(ship("contested"), version)]
            )
            match mine, contested:
                case Committed(first), Committed(second):
                    won += [first]
                    assert second == first + 1
                    version += 1
                case Committed(first), WrongVersion(actual):
                    won += [first]
                    version = actual
                case _:
                    pytest.fail(f"{mine}, {contested}")
        return won

    async with opened(postgres_url) as one, opened(postgres_url) as two, opened(postgres_url) as it:
        async with asyncio.timeout(60):
            won = await asyncio.gather(*(write(log, n) for n, log in enumerate((one, two, it))))
        newest = max((one, two, it), key=lambda log: log.head.position)
        records = await records_of(newest)
        contested = await newest.read_aggregate(ship("contested"))

    assert positions_of(records) == list(range(1, len(records) + 1))
    assert newest.head.digest == digests_of(records)[-1]
    assert versions_of(contested) == list(range(1, len(contested) + 1))
    assert len(records) == 30 + len(contested)
    assert len({position for each in won for position in each}) == 30


@pytest.mark.parametrize("attempts", [writing.OPTIMISTIC_ATTEMPTS, 0])
async def test_a_command_sent_through_two_logs_at_once_has_one_effect(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    monkeypatch.setattr(writing, "OPTIMISTIC_ATTEMPTS", attempts)
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        for number in range(10):
            [[first], [second]] = await asyncio.gather(
                one.append([commit(ship(f"one {number}"), command=command(number))]),
                other.append([commit(user(f"other {number}"), command=command(number))]),
            )
            assert {type(first), type(second)} == {Committed, Duplicate}
        assert positions_of(await records_of(one)) == list(range(1, 11))


async def test_what_another_one_commits_is_heard_of_at_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "LOOK_S", NEVER_S)
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        await one.append([commit(ship())])
        # Whoever begins to listen looks; from then on it has to be told.
        await asyncio.wait_for(other.wait(0), PATIENCE_S)

        await one.append([commit(ship(), 1)])
        await asyncio.wait_for(other.wait(1), PATIENCE_S)

        assert other.head == one.head


async def test_what_another_one_has_committed_can_be_asked_for(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening.Listener, "run", deaf)
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        await one.append([commit(ship())])
        known = other.head

        assert await other.newest() == one.head
        assert known != one.head
        assert other.head == one.head


async def test_a_notification_that_is_lost_delays_and_no_more(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "LOOK_S", 0.05)
    async with opened(postgres_url) as log:
        assert log.head.position == 0
        commits = [commit(ship())]
        group = Group(commits, Known.assumed(commits, log.head, 0), NOON)
        async with connected(postgres_url) as connection:
            await writing.write(connection, group, "another channel")

        await asyncio.wait_for(log.wait(0), PATIENCE_S)

        assert log.head == group.head


async def test_a_listener_that_was_cut_off_listens_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "RETRY_S", 0.05)
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        await one.append([commit(ship())])
        await asyncio.wait_for(other.wait(0), PATIENCE_S)
        async with connected(postgres_url) as connection:
            cut = await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'tidemark' AND query = $1",
                HEAD,
            )
        await one.append([commit(ship(), 1)])
        await asyncio.wait_for(other.wait(1), PATIENCE_S)
        assert len(cut) == 2


async def test_an_attempt_that_arrives_after_it_was_given_up_writes_nothing(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as log, connected(postgres_url) as late:
        commits = [commit(ship(), command=command(1))]
        group = Group(commits, Known.assumed(commits, log.head, 0), NOON)

        # As whoever has lost the connection that it was on finds out that it was not written.
        async with connected(postgres_url) as connection:
            await connection.execute(writing.MOVE_FENCE)
        row = await writing.write(late, group, "channel")

        assert not row["written"]
        assert await log.receipts([command(1)]) == {}
        assert await log.append([commit(ship())]) == [Committed(1)]


# Opening


async def test_several_may_start_at_the_same_time(postgres_url: str) -> None:
    logs = await asyncio.gather(*(PostgresLog.open(postgres_url) for _ in range(6)))
    try:
        await asyncio.gather(*(log.append([commit(ship(f"{n}"))]) for n, log in enumerate(logs)))
        assert positions_of(await records_of(logs[0])) == [1, 2, 3, 4, 5, 6]
    finally:
        for log in logs:
            await log.close()


async def test_a_log_is_found_as_it_was_left(postgres_url: str) -> None:
    async with opened(postgres_url) as log:
        await log.append([commit(ship(), events=3, command=command(1))])
        head = log.head

    async with opened(postgres_url) as log:
        assert log.head == head
        assert versions_of(await log.read_aggregate(ship())) == [1, 2, 3]
        assert len(await log.receipts([command(1)])) == 1


async def test_tables_of_a_later_version_are_refused(postgres_url: str) -> None:
    async with opened(postgres_url):
        pass
    async with connected(postgres_url) as connection:
        await connection.execute("INSERT INTO log_schema VALUES ($1)", len(MIGRATIONS) + 1)

    with pytest.raises(DataLoss, match="this program knows"):
        await PostgresLog.open(postgres_url)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE log_events SET record = record || 'x'::bytea WHERE position = 2",
        "UPDATE log_events SET digest = sha256('x') WHERE position = 2",
        "DELETE FROM log_events WHERE position = 2",
        "DELETE FROM log_events",
        "UPDATE log_head SET time = time + 1",
    ],
)
async def test_a_log_that_does_not_end_as_its_head_says_is_refused(
    postgres_url: str, damage: str
) -> None:
    async with opened(postgres_url) as log:
        await log.append([commit(ship(), events=2)])
    await execute(postgres_url, damage)

    with pytest.raises(DataLoss) as refusal:
        await PostgresLog.open(postgres_url)
    assert refusal.value.reason == "LOG_CORRUPT"


async def test_a_log_that_has_become_another_is_not_written_to(postgres_url: str) -> None:
    async with opened(postgres_url) as log:
        await log.append([commit(ship(), events=2)])
        await execute(
            postgres_url,
            "DELETE FROM log_events WHERE position = 2;"
            " UPDATE log_head SET (position, digest, time) ="
            " (SELECT position, digest, time FROM log_events);"
            " SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'tidemark'",
        )

        with pytest.raises(DataLoss) as refusal:
            await log.append([commit(user())])
        assert refusal.value.reason == "LOG_DIVERGED"


async def test_nobody_answering_is_said_at_once() -> None:
    with pytest.raises(Unavailable) as refusal:
        async with asyncio.timeout(PATIENCE_S):
            await PostgresLog.open("postgresql://postgres@127.0.0.1:1,127.0.0.1:2/postgres")
    assert refusal.value.reason == "LOG_UNAVAILABLE"


async def test_of_several_hosts_the_one_that_can_be_written_to_is_taken(postgres_url: str) -> None:
    url = postgres_url.replace("@127.0.0.1", "@127.0.0.1:1,127.0.0.1")
    async with opened(url + "&target_session_attrs=primary") as log:
        assert await log.append([commit(ship())]) == [Committed(1)]


async def test_a_server_that_only_reads_is_not_taken(postgres_url: str) -> None:
    async with opened(postgres_url):
        pass
    with pytest.raises(Unavailable):
        await PostgresLog.open(postgres_url + "&default_transaction_read_only=on")


@pytest.mark.parametrize("setting", ["off", "local"])
async def test_a_session_that_does_not_wait_for_the_disk_is_refused(
    postgres_url: str, setting: str
) -> None:
    url = f"{postgres_url}&synchronous_commit={setting}"
    if setting == "local":
        # There is no standby that it would have to wait for.
        async with opened(url) as log:
            assert await log.append([commit(ship())]) == [Committed(1)]
        return
    with pytest.raises(Unavailable) as refusal:
        await PostgresLog.open(url)
    assert refusal.value.reason == "LOG_NOT_DURABLE"

    log = await PostgresLog.open(url, allow_data_loss=True)
    assert await log.append([commit(ship())]) == [Committed(1)]
    await log.close()


# What the database refuses


async def test_a_full_disk_is_said_and_got_over(postgres_url: str) -> None:
    async with opened(postgres_url) as log:
        await log.append([commit(ship())])
        await execute(
            postgres_url,
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = 'disk_full'; END $$;"
            " CREATE TRIGGER full_disk BEFORE INSERT ON log_events EXECUTE FUNCTION fail()",
        )

        with pytest.raises(Exhausted) as refusal:
            await log.append([commit(ship(), 1, command=command(1))])
        assert refusal.value.reason == "DISK_FULL"
        assert positions_of(await records_of(log)) == [1]

        await execute(postgres_url, "DROP TRIGGER full_disk ON log_events")
        assert await log.append([commit(ship(), 1, command=command(1))]) == [Committed(2)]


async def test_a_head_that_somebody_keeps_locked_is_not_waited_for_without_end(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "lock_timeout", "100ms")
    async with opened(postgres_url) as log, connected(postgres_url) as other:
        await log.append([commit(ship())])
        async with other.transaction():
            await other.execute(writing.LOCK)
            with pytest.raises(Unavailable):
                await asyncio.wait_for(log.append([commit(ship(), 1)]), PATIENCE_S)
        assert await log.append([commit(ship(), 1)]) == [Committed(2)]


async def test_no_more_connections_are_said_at_once(postgres_url: str) -> None:
    await execute(
        postgres_url,
        "DROP ROLE IF EXISTS tidemark_test_few; CREATE ROLE tidemark_test_few LOGIN"
        " CONNECTION LIMIT 2; GRANT ALL ON SCHEMA "
        + postgres_url.rpartition("=")[2]
        + " TO tidemark_test_few",
    )
    url = postgres_url.replace("postgres@", "tidemark_test_few@")
    async with opened(url) as log:
        await asyncio.wait_for(log.append([commit(ship())]), PATIENCE_S)
        with pytest.raises(Unavailable) as refusal:
            await asyncio.wait_for(log.read_aggregate(ship()), PATIENCE_S)
        assert refusal.value.reason == "LOG_UNAVAILABLE"
