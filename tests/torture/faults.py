"""The faults: each a name, and what it does to the services in the middle of their work."""

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.services import Service, ServiceFailed
from shared.following import SILENCE_S
from shared.log.sqlite.backup import back_up
from shared.process import EXIT_OUTCOME_UNKNOWN
from shared.verification import Verification
from tests.services.deployment import CommandClient, QueryClient
from tests.services.health import SERVING
from tests.services.histories import WholeLog
from tests.services.serving import channel_to, health_watch
from tests.services.subscribing import reached
from tests.torture.database import Database
from tests.torture.faulty_disk import lose_power
from tests.torture.machine import (
    cut_power,
    failing_calls,
    own_ext4,
    reason_it_cannot_lose_power,
    reason_it_cannot_mount,
    reason_it_cannot_trace,
    restore_power,
    small_tmpfs,
)
from tests.torture.proxy import Mode
from tests.torture.service import DISK_VARIABLE, SERVICE_VARIABLE
from tests.torture.stage import Launch, Party, Stage
from tests.torture.wal import frames
from tests.torture.workload import RunFailed

Strike = Callable[[Stage, random.Random], Awaitable[None]]


def _small(module: str, **env: str) -> Launch:
    return Launch("tests.torture.service", {SERVICE_VARIABLE: module, **env})


COMMAND = _small("command_service")
QUERY = _small("query_service")
FAULTY_COMMAND = _small("command_service", **{DISK_VARIABLE: "1"})
FAULTY_QUERY = _small("query_service", **{DISK_VARIABLE: "1"})
# With the bounds of every day, what a run writes stays in the WAL.
LARGE_COMMAND = Launch("command_service")

NOTICE_S = 15.0
"""Within which damage has to be noticed."""


ENDED_S = 1.0
"""Within which a service that is about to end has ended."""


class Unnoticed(Exception):
    """A service went on as if nothing were wrong."""


@asynccontextmanager
async def _as_it_is(folder: Path) -> AsyncIterator[Path]:
    yield folder


@dataclass(frozen=True)
class Patience:
    """How long a run waits, in seconds.

    Args:
        recovery_s: for a new client to be served, after the fault.
        everything_s: for all that has to occur to have occurred, after that.
    """

    recovery_s: float
    everything_s: float


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Args:
        name: for people, and for the command line.
        strike: makes it happen, and returns when it is over, with everything running again.
        command: how the command service is started.
        query: how the query service is started.
        log: URL of the command services' log; empty: a file of the run.
        database: what keeps their log instead, of the run's own.
        others: command services beside the first, with a log that several can have.
        other_queries: query services beside the first, at most as many.
        place: the folder in which the services keep what they keep, made in that of the run.
        needs_privilege: whether it takes root, mounts or tools that are not in a package.
        reason_it_cannot: why it cannot be made on this machine; empty: it can.
        felt_as: what some answer has to be meanwhile, or the fault was none.
        is_damage: whether it damages a log, so that a service may say that something is lost.
        reads_go_on: whether queries have to be answered meanwhile.
        patience: how long a run with it waits.
        parts: the faults that strike in its place, one after the other.
    """

    name: str
    strike: Strike
    command: Launch = COMMAND
    query: Launch = QUERY
    log: str = ""
    database: Callable[[], AbstractAsyncContextManager[Database | None]] = nullcontext
    others: int = 0
    other_queries: int = 0
    place: Callable[[Path], AbstractAsyncContextManager[Path]] = _as_it_is
    needs_privilege: bool = False
    reason_it_cannot: Callable[[], str] = lambda: ""
    felt_as: tuple[str, ...] = ()
    is_damage: bool = False
    reads_go_on: bool = False
    patience: Patience = Patience(recovery_s=12, everything_s=12)
    parts: tuple["Fault", ...] = ()

    @property
    def one_by_one(self) -> tuple["Fault", ...]:
        """Those that strike one after the other, mostly just this."""
        return self.parts or (self,)


# Processes


async def _nothing(_: Stage, __: random.Random) -> None:
    """To be compared with."""


def _kill(*names: str) -> Strike:
    async def strike(stage: Stage, choose: random.Random) -> None:
        parties = [getattr(stage, name) for name in names]
        for _ in range(2):
            for party in parties:
                await party.kill()
            for party in parties:
                await party.start()
            await asyncio.sleep(choose.uniform(0, 0.3))

    return strike


def _terminate(name: str) -> Strike:
    async def strike(stage: Stage, _: random.Random) -> None:
        party: Party = getattr(stage, name)
        code = await party.terminate()
        if code != 0:
            raise Unnoticed(f"The {name} service ended with code {code} when it was told to")
        await party.start()

    return strike


def _freeze(name: str, shortest_s: float, longest_s: float) -> Strike:
    async def strike(stage: Stage, choose: random.Random) -> None:
        party: Party = getattr(stage, name)
        party.freeze()
        await asyncio.sleep(choose.uniform(shortest_s, longest_s))
        party.thaw()

    return strike


# Links


def _link(mode: Mode) -> Strike:
    async def strike(stage: Stage, choose: random.Random) -> None:
        each = [[link] for link in choose.sample(stage.links, len(stage.links))]
        for links in (*each, stage.links):
            for link in links:
                link.set(mode)
            await asyncio.sleep(choose.uniform(0.1, 0.6))
            for link in links:
                link.set(Mode.PASS)
            await asyncio.sleep(choose.uniform(0, 0.2))

    return strike


async def _delay(stage: Stage, choose: random.Random) -> None:
    for link in stage.links:
        link.delay_s = choose.uniform(0.02, 0.3)
    await asyncio.sleep(choose.uniform(0.5, 1.5))
    for link in stage.links:
        link.delay_s = 0.0


# Others that want in


async def _second_writer(stage: Stage, _: random.Random) -> None:
    """A second command service on the same file, which has to refuse."""
    for _attempt in range(2):
        try:
            second = await Service.start(
                "command_service",
                "--listen",
                "127.0.0.1:0",
                "--log",
                f"sqlite:{stage.log}",
                log=stage.folder / "second.log",
            )
        except ServiceFailed:
            continue
        await second.kill()
        raise Unnoticed("A second command service started on the same file")
    if "LOG_IN_USE" not in (stage.folder / "second.log").read_text():
        raise Unnoticed("The second command service did not say why it refused")


# Disks


def _failing_disk(name: str, failure: str) -> Strike:
    """The disk of a service fails, and that ends the service: it cannot know what was written."""

    async def strike(stage: Stage, _: random.Random) -> None:
        party: Party = getattr(stage, name)
        party.disturb(failure)
        try:
            code = await party.exit_code(NOTICE_S)
        except TimeoutError:
            raise Unnoticed(f"The {name} service went on after {failure} failed") from None
        finally:
            party.mend()
        await _start_again(party, code)

    return strike


async def _start_again(party: Party, code: int) -> None:
    """Starts a service that has ended, as it should, because it does not know what was written."""
    if code != EXIT_OUTCOME_UNKNOWN or "commit_outcome_unknown" not in party.last_line:
        raise Unnoticed(f"The {party.name} service ended with code {code}: {party.last_line}")
    await party.start()


def _survived(name: str, failure: str) -> Strike:
    """The disk of a service fails for a while, and the service goes on."""

    async def strike(stage: Stage, choose: random.Random) -> None:
        party: Party = getattr(stage, name)
        party.disturb(failure)
        await party.meets_it(NOTICE_S)
        await asyncio.sleep(choose.uniform(0.3, 1.0))
        # What is there can be read all the while.
        await WholeLog.of(stage.commands if name == "command" else stage.queries)
        party.mend()

    return strike


async def _fsync_of_query(stage: Stage, choose: random.Random) -> None:
    """Its copy is only synced when the WAL is moved into the database, which is then tried again;
    and when a commit is the first of a new WAL: that one ends the service."""
    await _survived("query", "fsync")(stage, choose)
    with contextlib.suppress(TimeoutError):
        code = await stage.query.exit_code(ENDED_S)
        await _start_again(stage.query, code)


def _power_loss(name: str) -> Strike:
    async def strike(stage: Stage, choose: random.Random) -> None:
        party: Party = getattr(stage, name)
        for keep in (None, choose):
            await party.kill()
            folder = stage.log.parent if name == "command" else stage.store
            lose_power(folder, keep)
            await party.start()
            await asyncio.sleep(choose.uniform(0.1, 0.4))

    return strike


async def _small_disk(stage: Stage, choose: random.Random) -> None:
    """Both services' disk is full, until somebody makes room."""
    await fill(stage.place, choose)


async def fill(disk: Path, choose: random.Random) -> None:
    """Leaves a disk no room, for a while."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    await asyncio.sleep(choose.uniform(1.0, 2.0))
    ballast.unlink()


async def _real_power_loss(stage: Stage, choose: random.Random) -> None:
    for _ in range(2):
        cut_power(stage.place)
        await stage.command.kill()
        await stage.query.kill()
        await restore_power(stage.place)
        await stage.command.start()
        await stage.query.start()
        await asyncio.sleep(choose.uniform(0.2, 0.6))


async def _failing_fsync(stage: Stage, _: random.Random) -> None:
    process = stage.command.service.process.pid
    async with failing_calls(process, "fsync,fdatasync", "EIO"):
        code = await stage.command.exit_code(NOTICE_S)
    if code != EXIT_OUTCOME_UNKNOWN:
        raise Unnoticed(f"The command service ended with code {code} after fsync failed")
    await stage.command.start()


# Clocks


async def _clock_jumps(stage: Stage, choose: random.Random) -> None:
    """An hour back, an hour forward, and back to what it was: of the one service, or of both."""
    parties = [stage.command, *stage.others, *choose.sample([stage.query], choose.randint(0, 1))]
    for offset in choose.sample(["-3600", "3600"], 2):
        for party in parties:
            party.clock.write_text(offset)
        await asyncio.sleep(choose.uniform(0.3, 0.6))
    for party in parties:
        party.clock.write_text("0")
    # Time in the log never goes back, so what was written then is seen for an hour.
    newest = (await WholeLog.of(stage.commands)).events[-1]
    if newest.occurred_at.seconds < time.time() + 3000:
        raise Unnoticed("No event has the time of a clock that was an hour ahead")


# Damage. It has to be noticed; then somebody puts the right files back.


def _files(database: Path) -> list[Path]:
    return [each for each in database.parent.glob(f"{database.name}*") if each.suffix != ".lock"]


@dataclass(frozen=True)
class Damaged:
    """A log that is to be damaged, of a command service that does not run.

    Args:
        database: its file.
        earlier: a copy of it from before.
        seen: the position that the reader has come to.
        choose: where the damage is to be.
    """

    database: Path
    earlier: Path
    seen: int
    choose: random.Random

    @property
    def wal(self) -> Path:
        """Its WAL."""
        return self.database.with_name(f"{self.database.name}-wal")

    def lacks_what_was_seen(self) -> bool:
        """Whether SQLite, which takes it for whole, finds less in it than the reader has."""
        [head] = self.found("SELECT max(position) FROM chunks")
        return (head or 0) < self.seen

    def found(self, query: str) -> Any:
        """The first row that SQLite finds; it gets a copy, since it tidies up what it opens."""
        with tempfile.TemporaryDirectory(dir=self.earlier.parent) as folder:
            for file in _files(self.database):
                shutil.copy2(file, folder)
            with closing(sqlite3.connect(Path(folder, self.database.name))) as connection:
                return connection.execute(query).fetchone()


def _damaging(damage: Callable[[Damaged], None], *, is_refused: bool) -> Strike:
    """Kills the command service, damages its log, and looks whether that is noticed.

    Args:
        damage: what to do to the log.
        is_refused: whether the command service itself has to notice; if not, its reader has to.
    """

    async def strike(stage: Stage, choose: random.Random) -> None:
        folder = Path(tempfile.mkdtemp(dir=stage.folder))
        earlier = folder / "earlier.db"
        back_up(stage.log, earlier, Verification())
        await _in_step(stage, more=choose.randint(10, 100))
        # What is damaged now, its reader has seen.
        stage.command.proxies[0].set(Mode.CUT)
        seen = await _in_step(stage)
        await stage.command.kill()
        intact = folder / "intact"
        intact.mkdir()
        for file in _files(stage.log):
            shutil.copy2(file, intact)
        damage(Damaged(stage.log, earlier, seen, choose))
        try:
            if is_refused:
                await _refused(stage)
            else:
                await _noticed_by_reader(stage)
        finally:
            for file in _files(stage.log):
                file.unlink()
            for file in intact.iterdir():
                shutil.copy2(file, stage.log.parent)
        await stage.query.kill()
        await stage.command.start()
        await stage.query.start()
        stage.command.proxies[0].set(Mode.PASS)

    return strike


async def _in_step(stage: Stage, more: int = 0) -> int:
    """Returns once the query service has all that the command service has, and perhaps more.

    Args:
        stage: with both running.
        more: events that have to come first.

    Returns:
        The position.
    """
    commands = CommandClient(stage.command.service.address)
    queries = QueryClient(stage.query.service.address)
    try:
        async with asyncio.timeout(NOTICE_S):
            position = (await WholeLog.of(commands)).checkpoint.position + more
            await reached(queries.log, position)
            return position
    finally:
        await commands.channel.close()
        await queries.channel.close()


async def _refused(stage: Stage) -> None:
    try:
        await stage.command.start()
    except ServiceFailed:
        if "LOG_CORRUPT" not in stage.command.output.read_text():
            raise Unnoticed("The command service did not say why it refused") from None
        return
    await stage.command.kill()
    raise Unnoticed("The command service started on a log that is damaged")


async def _noticed_by_reader(stage: Stage) -> None:
    await stage.command.start()
    try:
        async with asyncio.timeout(NOTICE_S), channel_to(stage.query.service) as channel:
            watch = health_watch(channel, "")
            while (await watch.read()).status == SERVING:
                pass
    except TimeoutError:
        raise Unnoticed("The query service did not see that the log lacks what it has") from None
    finally:
        await stage.command.kill()


LAST_RECORDS = "SELECT records FROM chunks ORDER BY position DESC LIMIT 1"


def _flip_last_event(log: Damaged) -> None:
    with closing(sqlite3.connect(log.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = log.database.read_bytes()
    [records] = log.found(LAST_RECORDS)
    place = -1
    while [records] == list(log.found(LAST_RECORDS)):
        # What was moved to another page stands at its former place, too.
        place = whole.find(records[-20:], place + 1)
        if place < 0:
            raise RunFailed("The last event is not in the file in one piece")
        content = bytearray(whole)
        content[place + log.choose.randrange(20)] ^= 1 << log.choose.randrange(8)
        log.database.write_bytes(content)


def _truncate_database(log: Damaged) -> None:
    with closing(sqlite3.connect(log.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = log.database.stat().st_size
    os.truncate(log.database, size - log.choose.randrange(1, size // 2))


def _flip_wal(log: Damaged) -> None:
    whole = log.wal.read_bytes()
    for page in _backwards(log):
        content = bytearray(whole)
        content[log.choose.randrange(page.start, page.stop)] ^= 1 << log.choose.randrange(8)
        log.wal.write_bytes(content)
        if log.lacks_what_was_seen():
            return


def _truncate_wal(log: Damaged) -> None:
    for page in _backwards(log):
        os.truncate(log.wal, log.choose.randrange(page.start, page.stop))
        if log.lacks_what_was_seen():
            return


def _backwards(log: Damaged) -> Iterator[slice]:
    """The pages of the WAL from somewhere in it on: the last ones may be without an event."""
    pages = frames(log.wal)
    yield from reversed(pages[: int(len(pages) * log.choose.uniform(0.3, 0.9)) + 1])
    raise RunFailed("The WAL has nothing that the reader has seen")


def _put_back(log: Damaged) -> None:
    for file in _files(log.database):
        file.unlink()
    shutil.copy2(log.earlier, log.database)
    if not log.lacks_what_was_seen():
        raise RunFailed("Nothing was written since the backup")


def _damage(name: str, damage: Callable[[Damaged], None], *, is_refused: bool) -> Fault:
    strike = _damaging(damage, is_refused=is_refused)
    return Fault(name, strike, command=LARGE_COMMAND, is_damage=True)


FAULTS = (
    Fault("nothing", _nothing),
    Fault("kill command", _kill("command"), felt_as=("UNAVAILABLE",)),
    Fault("kill query", _kill("query"), felt_as=("UNAVAILABLE",)),
    Fault("kill both", _kill("command", "query"), felt_as=("UNAVAILABLE",)),
    Fault("terminate command", _terminate("command")),
    Fault("terminate query", _terminate("query")),
    Fault("freeze command", _freeze("command", 0.5, 2.0)),
    Fault("freeze query", _freeze("query", 0.5, 2.0)),
    Fault(
        "long freeze of command",
        _freeze("command", SILENCE_S + 0.5, SILENCE_S + 2.0),
        felt_as=("DEADLINE_EXCEEDED",),
    ),
    Fault(
        "long freeze of query",
        _freeze("query", SILENCE_S + 0.5, SILENCE_S + 2.0),
        felt_as=("DEADLINE_EXCEEDED",),
    ),
    Fault("cut", _link(Mode.CUT), felt_as=("UNAVAILABLE",)),
    Fault("half-open", _link(Mode.SILENT), felt_as=("DEADLINE_EXCEEDED",)),
    Fault("half-close", _link(Mode.HALF_CLOSED), felt_as=("UNAVAILABLE",)),
    Fault("delay", _delay),
    Fault(
        "full disk of command",
        _survived("command", "full"),
        command=FAULTY_COMMAND,
        felt_as=("DISK_FULL",),
        reads_go_on=True,
    ),
    Fault("full disk of query", _survived("query", "full"), query=FAULTY_QUERY, reads_go_on=True),
    Fault("fsync of command", _failing_disk("command", "fsync"), command=FAULTY_COMMAND),
    Fault("fsync of query", _fsync_of_query, query=FAULTY_QUERY),
    Fault("write of command", _failing_disk("command", "write"), command=FAULTY_COMMAND),
    Fault("write of query", _failing_disk("query", "write"), query=FAULTY_QUERY),
    Fault("power loss of command", _power_loss("command"), command=FAULTY_COMMAND),
    Fault("power loss of query", _power_loss("query"), query=FAULTY_QUERY),
    Fault("second writer", _second_writer),
    Fault("clocks", _clock_jumps),
    Fault(
        "small disk",
        _small_disk,
        place=small_tmpfs,
        needs_privilege=True,
        reason_it_cannot=reason_it_cannot_mount,
        felt_as=("DISK_FULL",),
        reads_go_on=True,
    ),
    Fault(
        "power loss of ext4",
        _real_power_loss,
        place=own_ext4,
        needs_privilege=True,
        reason_it_cannot=reason_it_cannot_lose_power,
        # What SQLite cannot read any more, it calls damaged.
        is_damage=True,
    ),
    Fault(
        "fsync by strace",
        _failing_fsync,
        needs_privilege=True,
        reason_it_cannot=reason_it_cannot_trace,
    ),
    _damage("flip event", _flip_last_event, is_refused=True),
    _damage("truncate database", _truncate_database, is_refused=True),
    _damage("flip WAL", _flip_wal, is_refused=False),
    _damage("truncate WAL", _truncate_wal, is_refused=False),
    _damage("old backup", _put_back, is_refused=False),
)
"""Every fault that there is."""
