import asyncio
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from shared.errors import DataLoss, Exhausted, Unavailable
from shared.log.log import (
    MAX_PAGE_EVENTS,
    AggregateKey,
    CommandKey,
    Committed,
    Duplicate,
    EventFilter,
    EventLog,
    Head,
    History,
    OutcomeUnknown,
    Page,
    Receipt,
    WrongVersion,
    time_of,
)
from shared.log.sqlite import SqliteLog, indexing, newest
from shared.log.sqlite.reading import SCAN_WINDOW
from shared.sqlite import Connection, Readers, Synchronous
from tests.log.builders import (
    HOUR,
    NOON,
    Clock,
    assertion,
    command,
    commit,
    fingerprint,
    ship,
    snapshot,
    user,
)
from tests.log.contract import LogContract
from tests.log.reading import digests_of, events_of, positions_of, records_of, versions_of
from tidemark.v1.ship_pb2 import ShipDeparted, ShipRegistered

REPOSITORY = Path(__file__).parents[2]

OTHER_PROCESS = """
import asyncio, sys
from pathlib import Path
from shared.errors import Unavailable
from shared.log.sqlite import SqliteLog
from tests.log.builders import command, commit, ship

async def main():
    try:
        log = await SqliteLog.open(Path(sys.argv[1]))
    except Unavailable as error:
        print(error.reason, flush=True)
        return
    await log.append([commit(ship(), events=3, command=command(1))])
    print("APPENDED", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""
"""Appends to the log and keeps it open until its input ends."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


class TestSqliteLog(LogContract):
    @pytest.fixture
    async def log(self, path: Path, clock: Clock) -> AsyncIterator[SqliteLog]:
        async with opened(path, clock=clock) as log:
            yield log


class TestSqliteLogWhoseIndexFollowsAtOnce(LogContract):
    @pytest.fixture
    async def log(
        self, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[SqliteLog]:
        monkeypatch.setattr(indexing, "INDEX_EVENTS", 1)
        # Everything is read from the tables.
        monkeypatch.setattr(newest, "MAX_BYTES", 0)
        async with opened(path, clock=clock) as log:
            yield log


# The index, which follows behind


@pytest.mark.parametrize("events", [1, 30])
async def test_whatever_is_indexed_meanwhile_a_reader_finds_an_aggregate_without_a_gap(
    path: Path, monkeypatch: pytest.MonkeyPatch, events: int
) -> None:
    monkeypatch.setattr(indexing, "INDEX_EVENTS", 50)
    async with opened(path, synchronous="NORMAL") as log:
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(_append_often(log, events))
            reads = 0
            while not writing.done():
                await asyncio.sleep(0)  # what is read from memory lets nobody else run
                head = log.head.position
                versions = versions_of(await log.read_aggregate(ship()))
                history = (await log.load({ship(): b""}))[ship()]
                reads += 1

                assert versions == list(range(1, len(versions) + 1))
                assert len(versions) >= min(head, MAX_PAGE_EVENTS)
                assert len(history.records) >= len(versions)
                assert len(await log.receipts([command(0)])) == 1 or head == 0
        assert reads > 10


async def _append_often(log: SqliteLog, events: int) -> None:
    for number in range(200):
        await log.append([commit(ship(), number * events, events=events, command=command(number))])


async def test_after_a_kill_what_was_not_indexed_is_found_as_well(path: Path) -> None:
    with other_process(path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "APPENDED\n"
        process.kill()

    async with opened(path) as log:
        assert versions_of(await log.read_aggregate(ship())) == [1, 2, 3]
        assert await log.receipts([command(1)]) == {
            command(1): Receipt("aurora", 3, 3, fingerprint(command(1)))
        }
        assert await log.append([commit(ship(), 3, command=command(1))]) == [
            Duplicate(Receipt("aurora", 3, 3, fingerprint(command(1))))
        ]


async def test_a_copy_without_receipts_has_them_once_it_is_opened_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "INDEX_EVENTS", 10)
    path = tmp_path / "copy.db"
    async with opened(tmp_path / "origin.db") as origin:
        for number in range(100):
            await origin.append([commit(ship(), number, command=command(number))])
        records = await records_of(origin)
        expected = await contents(origin)
    copy = await SqliteLog.open(path, with_receipts=False)
    async with closed_after(copy):
        for start in range(0, 100, 7):
            await copy.copy(records[start : start + 7])

    async with opened(path) as log:
        commands = [command(number) for number in range(100)]
        assert await contents(log) == expected
        assert set(await log.receipts(commands)) == set(commands)


async def test_a_full_disk_under_the_index_refuses_the_append_and_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "INDEX_EVENTS", 300)
    async with opened(path) as log:
        await log.append(
            [commit(ship(str(number)), command=command(number)) for number in range(300)]
        )
        before = await contents(log)
        await no_room(log)

        with pytest.raises(Exhausted):
            await log.append([commit(user())])

        assert await contents(log) == before
        assert versions_of(await log.read_aggregate(ship("7"))) == [1]
        await room(log)
        assert await log.append([commit(user())]) == [Committed(301)]
        assert versions_of(await log.read_aggregate(ship("7"))) == [1]


# Opening and closing


async def test_everything_is_there_after_reopening(path: Path) -> None:
    async with opened(path) as log:
        await log.append([commit(ship(), events=2, command=command(1), snapshot=snapshot(2))])
        await log.append([commit(user(), command=command(2)), commit(ship(), 2)])
        before = await contents(log)

    async with opened(path) as log:
        assert await contents(log) == before


async def test_a_reopened_log_goes_on_where_it_was(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as log:
        await log.append([commit(ship(), events=2, command=command(1))])

    clock.now -= HOUR
    async with opened(path, clock=clock) as log:
        outcomes = await log.append(
            [
                commit(user(), 1),
                commit(user("bob"), command=command(1)),
                commit(ship(), 2, [ShipDeparted()]),
                assertion(ship(), 3),
            ]
        )

        assert outcomes == [
            WrongVersion(0),
            Duplicate(Receipt("aurora", 2, 2, fingerprint(command(1)))),
            Committed(3),
            Committed(3),
        ]
        assert [time_of(event) - NOON for event in await events_of(log)] == [0, 1, 2]
        assert log.head.digest == digests_of(await records_of(log))[-1]


async def test_a_copy_is_there_after_reopening(tmp_path: Path) -> None:
    async with opened(tmp_path / "origin.db") as origin, opened(tmp_path / "copy.db") as copy:
        await origin.append([commit(ship(), events=2, command=command(1)), commit(user())])
        await copy.copy(await records_of(origin))
        expected = await contents(origin)

    async with opened(tmp_path / "copy.db") as copy:
        assert await contents(copy) == expected


async def test_missing_directories_are_made(tmp_path: Path) -> None:
    async with opened(tmp_path / "new" / "data" / "log.db") as log:
        assert log.head == Head()


async def test_closing_finishes_what_has_begun(path: Path) -> None:
    async with opened(path) as log:
        appending = [
            asyncio.create_task(log.append([commit(ship(str(number)))])) for number in range(20)
        ]
        await log.read(0)

    outcomes = [await task for task in appending]
    assert outcomes == [[Committed(position)] for position in range(1, 21)]
    async with opened(path) as log:
        assert log.head.position == 20


async def test_closing_lets_those_read_who_wait_for_a_connection(path: Path) -> None:
    async with opened(path):
        readers = await Readers.connect(path, 1)

        async def read_and_close() -> None:
            await readers.run(page_count)
            await readers.close()

        closing = asyncio.create_task(read_and_close())
        reading = asyncio.create_task(readers.run(page_count))
        await closing

        assert await asyncio.wait_for(reading, 5) > 0


@pytest.mark.parametrize(("asked", "level"), [(None, 2), ("FULL", 2), ("NORMAL", 1)])
async def test_every_commit_is_synced_unless_asked_otherwise(
    path: Path, asked: Synchronous | None, level: int
) -> None:
    log = await (SqliteLog.open(path, synchronous=asked) if asked else SqliteLog.open(path))

    async with closed_after(log):
        assert await pragma(log, "synchronous") == level
        assert await pragma(log, "journal_mode") == "wal"


# One process at a time


async def test_a_second_open_is_refused(path: Path) -> None:
    async with opened(path) as log:
        with pytest.raises(Unavailable) as refusal:
            await open_once(path)

        assert refusal.value.reason == "LOG_IN_USE"
        assert await log.append([commit(ship())]) == [Committed(1)]


async def test_another_process_is_refused(path: Path) -> None:
    async with opened(path) as log:
        with other_process(path) as process:
            answer, _ = process.communicate()

        assert answer == "LOG_IN_USE\n"
        assert await log.append([commit(ship())]) == [Committed(1)]


async def test_a_killed_process_leaves_a_log_that_opens_with_all_it_appended(path: Path) -> None:
    with other_process(path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "APPENDED\n"
        process.kill()

    async with opened(path) as log:
        assert positions_of(await records_of(log)) == [1, 2, 3]
        assert await log.append([commit(ship(), 3)]) == [Committed(4)]


# Damage


async def test_a_flipped_byte_in_the_last_record_is_found_at_open(path: Path) -> None:
    async with opened(path) as log:
        await log.append([commit(ship(), events=2, command=command(1))])
        last = (await records_of(log))[-1]
    flip_a_byte(path, last)

    with pytest.raises(DataLoss) as refusal:
        await open_once(path)

    assert refusal.value.reason == "LOG_CORRUPT"


@pytest.mark.parametrize("events", [1, 2])
async def test_a_last_digest_that_does_not_follow_is_found_at_open(path: Path, events: int) -> None:
    async with opened(path) as log:
        await log.append([commit(ship(), events=events)])
    change(path, "UPDATE chunks SET digest = zeroblob(32) WHERE position = :last", last=events)

    with pytest.raises(DataLoss) as refusal:
        await open_once(path)

    assert refusal.value.reason == "LOG_CORRUPT"


async def test_a_flipped_byte_anywhere_is_found_when_it_is_read(path: Path) -> None:
    async with opened(path) as log:
        for version in range(0, 400, 10):
            await log.append([commit(ship("early"), version, events=10)])
        await log.append([commit(ship("late"), events=10)])
        first = (await records_of(log))[0]
    flip_a_byte(path, first)

    async with opened(path) as log:
        for reading in (
            log.read(0),
            log.read_aggregate(ship("early")),
            log.load({ship("early"): b""}),
            log.digest_at(1),
        ):
            with pytest.raises(DataLoss, match="are not what was written"):
                await reading
        assert len(await log.read_aggregate(ship("late"))) == 10


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("DELETE FROM indexed", "does not say up to where"),
        ("INSERT INTO indexed VALUES (1, 1)", "does not say up to where"),
        ("UPDATE indexed SET versions = 4", "its index later"),
        ("UPDATE indexed SET receipts = 4", "its index later"),
        ("DELETE FROM chunks WHERE position = 3", "its index later"),
        ("DELETE FROM versions WHERE position = 3", "lacks the event at position 3"),
        ("DELETE FROM aggregates WHERE aggregate_id = 'ada'", "lacks the event at position 3"),
        (
            "INSERT INTO versions SELECT aggregate, 9, 9 FROM versions WHERE position = 3",
            "lacks the event at position 3",
        ),
        ("DELETE FROM receipts WHERE position = 3", "The receipt of position 3 is missing"),
        ("UPDATE receipts SET position = 1 WHERE position = 3", "is another command's"),
    ],
)
async def test_an_index_that_does_not_end_where_it_is_said_to_is_found_at_open(
    path: Path, statement: str, sentence: str
) -> None:
    """An aggregate would be taken to be at an older version, or a command not to be executed."""
    async with opened(path) as log:
        await log.append([commit(ship(), events=2, command=command(1))])
        await log.append([commit(user(), command=command(2))])
    change(path, statement)

    with pytest.raises(DataLoss, match=sentence) as refusal:
        await open_once(path)

    assert refusal.value.reason == "LOG_CORRUPT"
    assert str(path) in refusal.value.message


def test_a_file_that_is_no_database_is_corrupt(path: Path) -> None:
    scribble(path)

    # What the refused connection leaves behind in its thread meets a closed loop, or does not.
    for _ in range(50):
        with pytest.raises(DataLoss) as refusal:
            asyncio.run(open_once(path))

        assert refusal.value.reason == "LOG_CORRUPT"
        wait_for_threads()


def test_a_damaged_schema_is_corrupt_though_sqlite_cannot_put_it_into_words(path: Path) -> None:
    asyncio.run(open_once(path))
    stored = path.read_bytes()
    path.write_bytes(stored.replace(b"CREATE TABLE indexed", b"CREATE \xffABLE indexed"))

    with pytest.raises(DataLoss) as refusal:
        asyncio.run(open_once(path))

    assert refusal.value.reason == "LOG_CORRUPT"


async def test_a_schema_from_the_future_is_refused_and_left_alone(path: Path) -> None:
    async with opened(path) as log:
        await log.append([commit(ship())])
        schema = await pragma(log, "user_version")
    assert isinstance(schema, int)
    change(path, f"PRAGMA user_version = {schema + 1}")

    with pytest.raises(DataLoss) as refusal:
        await open_once(path)

    assert refusal.value.reason == "LOG_CORRUPT"
    change(path, f"PRAGMA user_version = {schema}")
    async with opened(path) as log:
        assert log.head.position == 1


# A disk that is full or fails

LARGE = ShipRegistered(name="x" * 100_000)


async def test_a_full_disk_writes_nothing_and_says_so(path: Path) -> None:
    async with opened(path) as log:
        await log.append([commit(ship(), command=command(1))])
        before = await contents(log)
        await no_room(log)

        with pytest.raises(Exhausted) as refusal:
            await log.append(
                [commit(ship(), 1, command=command(2)), commit(user(), 0, [LARGE, LARGE])]
            )

        assert refusal.value.reason == "DISK_FULL"
        assert await contents(log) == before
        await room(log)
        assert await contents(log) == before


async def test_a_full_disk_wakes_nobody(path: Path) -> None:
    async with opened(path) as log:
        waiting = asyncio.create_task(log.wait(0))
        await no_room(log)

        with pytest.raises(Exhausted):
            await log.append([commit(ship(), 0, [LARGE])])

        assert not waiting.done()
        await room(log)
        await log.append([commit(ship())])
        await asyncio.wait_for(waiting, 5)


async def test_appending_works_again_when_there_is_room(path: Path) -> None:
    large = commit(user(), 0, [LARGE], command=command(1), snapshot=snapshot(1))
    async with opened(path) as log:
        await log.append([commit(ship())])
        await no_room(log)
        for _ in range(3):
            with pytest.raises(Exhausted):
                await log.append([commit(ship("new"), events=2), large])

        await room(log)
        outcomes = await log.append([commit(ship("new"), events=2), large, commit(ship(), 1)])

        assert outcomes == [Committed(3), Committed(4), Committed(5)]
        records = await records_of(log)
        assert positions_of(records) == [1, 2, 3, 4, 5]
        assert log.head.digest == digests_of(records)[-1]
        assert set(await log.receipts([command(1)])) == {command(1)}
        after = await contents(log)

    async with opened(path) as log:
        assert await contents(log) == after


async def test_a_full_disk_refuses_a_copy_too(tmp_path: Path) -> None:
    async with opened(tmp_path / "origin.db") as origin, opened(tmp_path / "copy.db") as copy:
        await origin.append([commit(ship()), commit(user(), 0, [LARGE])])
        records = await records_of(origin)
        await no_room(copy)
        with pytest.raises(Exhausted) as refusal:
            await copy.copy(records)
        head_when_full = copy.head

        await room(copy)
        await copy.copy(records)

        assert refusal.value.reason == "DISK_FULL"
        assert head_when_full == Head()
        assert await contents(copy) == await contents(origin)


@pytest.mark.parametrize("bytes_written", [0, 5_000])
async def test_after_a_failed_write_of_the_wal_only_a_restart_tells(
    path: Path, bytes_written: int
) -> None:
    async with opened(path) as log:
        await log.append([commit(ship())])
        before = log.head
        with wal_limited(path, bytes_written), pytest.raises(OutcomeUnknown):
            await log.append([commit(ship(), 1, [LARGE], command=command(1))])

        assert log.head == before

    async with opened(path) as log:
        records = await records_of(log)
        assert positions_of(records) in ([1], [1, 2])
        assert len(await log.receipts([command(1)])) == len(records) - 1
        assert log.head.digest == digests_of(records)[-1]


# Filtered reads


async def test_a_filtered_read_looks_at_no_more_than_a_window(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest, "MAX_BYTES", 0)
    wanted = EventFilter(aggregate_types=frozenset({"user"}))
    async with opened(path, synchronous="NORMAL") as log:
        await log.append([commit(ship(), events=SCAN_WINDOW), commit(user())])
        digest = await log.digest_at(SCAN_WINDOW)
        assert digest

        page = await log.read(0, event_filter=wanted)
        rest = await log.read(page.position, event_filter=wanted)

        assert page == Page([], SCAN_WINDOW, digest)
        assert positions_of(rest.records) == [SCAN_WINDOW + 1]


FOUND_IN_A_LONG_LOG = {
    "one of a tenant": EventFilter("acme", aggregate_ids=frozenset({"aurora"})),
    "the same id in every tenant": EventFilter(aggregate_ids=frozenset({"aurora"})),
    "a rare one and a frequent one": EventFilter(
        "acme", aggregate_ids=frozenset({"aurora", "ada"})
    ),
    "of a type that it is not of": EventFilter(
        aggregate_ids=frozenset({"aurora"}), aggregate_types=frozenset({"user"})
    ),
    "one that is not there": EventFilter(aggregate_ids=frozenset({"nobody"})),
}


async def test_aggregates_are_found_in_a_log_of_more_than_a_window(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest, "MAX_BYTES", 0)
    async with opened(path, synchronous="NORMAL") as log:
        for turn in range(10):
            await log.append(
                [
                    commit(ship(), 2 * turn, events=2),
                    commit(user(), 2500 * turn, events=2500),
                    commit(ship(tenant_id="zenith"), turn, events=1),
                ]
            )
        assert log.head.position > SCAN_WINDOW
        events = await events_of(log)

        for wanted in FOUND_IN_A_LONG_LOG.values():
            expected = [
                event.position
                for event in events
                if event.aggregate_id in wanted.aggregate_ids
                and wanted.tenant_id in {None, event.tenant_id}
                and event.aggregate_type in (wanted.aggregate_types or {event.aggregate_type})
            ]
            for limit in (7, 1000):
                assert await paged(log, wanted, limit) == expected


async def paged(log: SqliteLog, wanted: EventFilter, limit: int) -> list[int]:
    """The positions of what a filter selects, read page by page."""
    positions: list[int] = []
    after = 0
    while after < log.head.position:
        page = await log.read(after, limit, wanted)
        assert page.position > after
        assert page.digest == await log.digest_at(page.position)
        assert len(page.records) <= limit
        positions += positions_of(page.records)
        after = page.position
    return positions


@asynccontextmanager
async def opened(
    path: Path, *, synchronous: Synchronous = "FULL", clock: Clock | None = None
) -> AsyncIterator[SqliteLog]:
    log = await SqliteLog.open(path, synchronous=synchronous, clock=clock or Clock())
    async with closed_after(log):
        yield log


async def open_once(path: Path) -> None:
    """Leaves no thread behind even if it is not refused."""
    async with opened(path):
        pass


@asynccontextmanager
async def closed_after(log: SqliteLog) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await log.close()


async def contents(
    log: EventLog,
) -> tuple[Head, list[bytes], dict[AggregateKey, History], dict[CommandKey, Receipt]]:
    """All that the port tells of the keys and commands in these tests."""
    return (
        log.head,
        await records_of(log),
        await log.load(dict.fromkeys((ship(), user(), ship("new")), b"schema 1")),
        await log.receipts(map(command, range(1, 4))),
    )


@contextmanager
def other_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, path],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def change(path: Path, statement: str, **values: int) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement, values)


def wait_for_threads() -> None:
    """A failure in one is then reported with this test and not with a later one."""
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        thread.join(5)


def scribble(path: Path) -> None:
    path.write_bytes(b"This is not a database. " * 100)


def flip_a_byte(path: Path, record: bytes) -> None:
    stored = bytearray(path.read_bytes())
    assert stored.count(record) == 1
    stored[stored.index(record) + len(record) // 2] ^= 1
    path.write_bytes(stored)


@contextmanager
def wal_limited(path: Path, growth: int) -> Iterator[None]:
    """The kernel refuses this process every write that makes a file larger than the WAL may be.

    SQLite calls it EIO, not a full disk.
    """
    size = path.with_name(path.name + "-wal").stat().st_size + growth
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def page_count(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA page_count").fetchone()[0])


async def no_room(log: SqliteLog) -> None:
    """The database may not grow: SQLite answers as on a full disk."""
    pages = await writer_of(log).run(page_count)
    assert await pragma(log, f"max_page_count = {pages}") == pages


async def room(log: SqliteLog) -> None:
    await pragma(log, "max_page_count = 1000000")


async def pragma(log: SqliteLog, name: str) -> object:
    def ask(db: sqlite3.Connection) -> object:
        return db.execute(f"PRAGMA {name}").fetchone()[0]

    return await writer_of(log).run(ask)


def writer_of(log: SqliteLog) -> Connection:
    return log._writer  # noqa: SLF001  # these pragmas are the connection's own, and told to nobody else
