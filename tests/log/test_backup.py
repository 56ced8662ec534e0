"""A copy of a log, of one moment, whatever is written meanwhile."""

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from shared.log.sqlite import SqliteLog, backup
from shared.log.sqlite.backup import back_up
from shared.verification import Advance, Unreadable, Verification
from tests.log.builders import command, commit, ship
from tests.log.reading import records_of
from tidemark.v1.ship_pb2 import ShipDocked

COMMANDS = [command(number) for number in range(20)]


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """One that is written to, of more than 100 KB."""
    log = await SqliteLog.open(tmp_path / "log.db")
    for number, each in enumerate(COMMANDS):
        large = [ShipDocked(port="x" * 500)] * 10
        await log.append([commit(ship(), number * 10, large, command=each)])
    yield log
    await log.close()


@pytest.fixture
def path(log: SqliteLog, tmp_path: Path) -> Path:
    return tmp_path / "log.db"


class Watching(Verification):
    """Does something at every step of a copy."""

    def __init__(self, at_step: Callable[[], None]) -> None:
        super().__init__()
        self.steps: list[int] = []
        self._at_step = at_step

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        def advance(to: int) -> None:
            self.steps.append(to)
            self._at_step()

        yield advance


async def test_a_copy_is_of_the_moment_at_which_it_began(
    log: SqliteLog, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PAGES_AT_ONCE", 1)
    records = await records_of(log)
    loop = asyncio.get_running_loop()
    versions = iter(range(len(records), 10_000))

    def write() -> None:
        appending = log.append([commit(ship(), next(versions))])
        asyncio.run_coroutine_threadsafe(appending, loop).result(10)

    watching = Watching(write)
    await asyncio.to_thread(back_up, path, tmp_path / "copy.db", watching)

    assert log.head.position == len(records) + len(watching.steps)
    assert watching.steps == list(range(1, len(watching.steps) + 1)), "it began again"
    copy = await SqliteLog.open(tmp_path / "copy.db")
    assert await records_of(copy) == records
    assert set(await copy.receipts(COMMANDS)) == set(COMMANDS)
    await copy.close()


def test_a_copy_is_one_file_as_private_as_the_log(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    folder = tmp_path / "copies"
    folder.mkdir()

    back_up(path, folder / "copy.db", Verification())

    assert [each.name for each in folder.iterdir()] == ["copy.db"]
    assert (folder / "copy.db").stat().st_mode & 0o777 == 0o640
    with closing(sqlite3.connect(folder / "copy.db")) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize("name", ["copy.db", "copy.db.partial"])
def test_nothing_is_overwritten(name: str, path: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")

    with pytest.raises(Unreadable, match=name):
        back_up(path, tmp_path / "copy.db", Verification())

    assert (tmp_path / name).read_text() == "precious"
    assert sorted(each.name for each in tmp_path.glob("copy*")) == [name]


def test_a_copy_that_cannot_be_written_leaves_nothing(path: Path, tmp_path: Path) -> None:

    with pytest.raises(Unreadable, match=r"copy\.db\.partial cannot be made: No such file"):
        back_up(path, tmp_path / "nowhere" / "copy.db", Verification())

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(path, tmp_path / "copy.db", Watching(interrupt))
    with (
        file_size_limited(1 << 16),
        pytest.raises(Unreadable, match=r"copy\.db cannot be made: "),
    ):
        back_up(path, tmp_path / "copy.db", Verification())

    assert list(tmp_path.glob("copy*")) == []


def test_what_is_no_log_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "other.db").write_bytes(b"This is not a database. " * 100)

    for name in ("other.db", "nowhere.db"):
        with pytest.raises(Unreadable, match=name):
            back_up(tmp_path / name, tmp_path / "copy.db", Verification())

    assert list(tmp_path.glob("copy*")) == []


@contextmanager
def file_size_limited(size: int) -> Iterator[None]:
    """The kernel refuses this process every write that makes a file larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
