import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from command_service.keys.sqlite import SqliteKeys
from shared.errors import DataLoss, Unavailable
from shared.log.log import AggregateKey
from shared.personal.sealing import DESTROYED
from tests.keys.contract import ADA, BOB, KeyStoreContract, every_page
from tests.log.builders import user


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteKeys]:
    keys = await SqliteKeys.open(path)
    try:
        yield keys
    finally:
        await keys.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.keys.db"


def on_disk(path: Path) -> bytes:
    """All that there is of it."""
    return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))


def overwrite_and_die(path: Path) -> None:
    """What a process does that is killed before it has emptied the WAL."""
    script = """if True:
        import os, signal, sqlite3, sys
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        [key] = db.execute("SELECT key FROM keys").fetchone()
        for value in (bytes(32), key, bytes(32)):
            db.execute("UPDATE keys SET key = ?", (value,))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL


class TestSqliteKeys(KeyStoreContract):
    @pytest.fixture
    async def keys(self, path: Path) -> AsyncIterator[SqliteKeys]:
        async with opened(path) as keys:
            yield keys


async def test_keys_are_there_after_a_restart_and_destroyed_ones_are_not(path: Path) -> None:
    async with opened(path) as keys:
        made = await keys.make([ADA, BOB])
        await keys.destroy([ADA])
    async with opened(path) as keys:
        assert await keys.find([ADA, BOB]) == {ADA: DESTROYED, BOB: made[BOB]}


async def test_a_destroyed_key_is_nowhere_in_the_files(path: Path) -> None:
    everybody = [user(f"{random.Random(n).random()}" * (1 + n % 3)) for n in range(3000)]  # noqa: S311  # no secret
    made: dict[AggregateKey, bytes] = {}
    async with opened(path) as keys:
        # In groups, as they come, so that pages fill up and are divided.
        for start in range(0, len(everybody), 50):
            made |= await keys.make(everybody[start : start + 50])
            if start % 250 == 0:
                await keys.destroy(everybody[start : start + 5])
        erased = {each for each, key in await every_page(keys) if key == DESTROYED}
        assert len(erased) == 60
        for when in ("while it is open", "afterwards"):
            content = on_disk(path)
            for each, key in made.items():
                assert (key in content) == (each not in erased), when
            if when == "while it is open":
                some = everybody[::7]
                await keys.destroy(some)
                erased.update(some)
    content = on_disk(path)
    assert not [each for each in erased if made[each] in content]


async def test_what_a_killed_process_has_not_cleared_away_is_gone_after_the_next_start(
    path: Path,
) -> None:
    async with opened(path) as keys:
        made = await keys.make([ADA])
    overwrite_and_die(path)
    assert made[ADA] in on_disk(path)

    async with opened(path):
        assert made[ADA] not in on_disk(path)


async def test_while_another_program_reads_them_keys_are_not_called_destroyed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.sqlite.BUSY_TIMEOUT_S", 0.05)
    async with opened(path) as keys:
        made = await keys.make([ADA])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM keys").fetchall()
            for _ in range(2):
                with pytest.raises(Unavailable, match="KEYS_IN_USE"):
                    await keys.destroy([ADA])
            assert made[ADA] in on_disk(path)
        await keys.destroy([ADA])
        assert made[ADA] not in on_disk(path)


async def test_only_one_process_has_them(path: Path) -> None:
    async with opened(path):
        with pytest.raises(Unavailable, match="LOG_IN_USE"):
            await SqliteKeys.open(path)
    async with opened(path):
        pass


async def test_nobody_else_can_read_the_files(path: Path) -> None:
    async with opened(path) as keys:
        await keys.make([ADA])
        modes = {each.name: each.stat().st_mode & 0o077 for each in path.parent.iterdir()}
        assert modes.keys() >= {path.name, f"{path.name}-wal"}
        assert {mode for name, mode in modes.items() if not name.endswith(".lock")} == {0}


async def test_a_file_that_is_none_is_refused_by_its_name(path: Path) -> None:
    await asyncio.to_thread(path.write_bytes, b"no database at all" * 100)
    with pytest.raises(DataLoss, match=path.name):
        await SqliteKeys.open(path)


async def test_a_later_version_is_refused(path: Path) -> None:
    async with opened(path):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(DataLoss, match="version 99"):
        await SqliteKeys.open(path)
