"""The services of a run, each behind a proxy, so that every link between two can be attacked."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from examples.services import Service
from tests.postgres.databases import log_options
from tests.services.deployment import CommandClient, QueryClient
from tests.torture.database import Database
from tests.torture.faulty_disk import FAIL_VARIABLE, met_of
from tests.torture.proxy import Proxy
from tests.torture.shifted_clock import CLOCK_VARIABLE

START_S = 10.0
"""Within which a service has to be there again, whatever happened to it."""


class TooSlow(Exception):
    """Something came to its end, and not in time."""


@dataclass(frozen=True)
class Launch:
    """How a service is started: the module that is it, and what it finds in its environment."""

    module: str
    env: Mapping[str, str] = field(default_factory=dict)


class Party:
    """One service of a run: its process, which comes and goes, and its address, which stays.

    Args:
        name: for people.
        launch: how to start it.
        arguments: its options, but for where to listen.
        folder: for what it logs.
        proxy: what its clients connect to.
    """

    def __init__(
        self, name: str, launch: Launch, arguments: tuple[str, ...], folder: Path, proxy: Proxy
    ) -> None:
        self.name = name
        self.launch = launch
        self.arguments = arguments
        self.output = folder / f"{name}.log"
        self.switch = folder / f"{name}.fail"
        self.met = met_of(self.switch)
        self.clock = folder / f"{name}.clock"
        """See `tests.torture.shifted_clock`."""
        self.proxies = [proxy]
        self.service: Service
        self.longest_restart_s = 0.0

    async def start(self) -> None:
        """Starts it, again if it was stopped.

        Raises:
            examples.services.ServiceFailed: it would not start.
            TooSlow: it did, at last.
        """
        began = time.monotonic()
        is_again = hasattr(self, "service")
        self.service = await Service.start(
            self.launch.module,
            "--listen",
            "127.0.0.1:0",
            *self.arguments,
            env={
                **self.launch.env,
                FAIL_VARIABLE: str(self.switch),
                CLOCK_VARIABLE: str(self.clock),
            },
            log=self.output,
        )
        for proxy in self.proxies:
            proxy.target = self.service.address
        took = time.monotonic() - began
        if is_again:
            self.longest_restart_s = max(self.longest_restart_s, took)
        if is_again and took > START_S:
            raise TooSlow(f"The {self.name} service took {took:.1f} s to start")

    def disturb(self, failure: str) -> None:
        """Has its disk fail from now on; see `tests.torture.faulty_disk`."""
        # All of it at once, for who reads it meanwhile.
        self.met.unlink(missing_ok=True)
        written = self.switch.with_suffix(".new")
        written.write_text(failure)
        written.rename(self.switch)

    def mend(self) -> None:
        """Has its disk work again."""
        self.switch.unlink()

    async def meets_it(self, within: float) -> None:
        """Returns once its disk has failed.

        Raises:
            TooSlow: it did not in so many seconds.
        """
        until = time.monotonic() + within
        while not self.met.exists():  # another process makes it
            if time.monotonic() > until:
                raise TooSlow(f"The {self.name} service did not use its disk")
            await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """Ends it as a power cut would, for the process."""
        await self.service.kill()

    async def terminate(self) -> int:
        """Has it drain and end; its exit code."""
        return await self.service.stop()

    def freeze(self) -> None:
        """Stops it in whatever it does."""
        self.service.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Has it go on as if nothing had been."""
        self.service.process.send_signal(signal.SIGCONT)

    @property
    def last_line(self) -> str:
        """The last that it logged."""
        return self.output.read_text().rstrip().rpartition("\n")[2]

    async def exit_code(self, within: float) -> int:
        """How it ended by itself.

        Args:
            within: seconds.

        Raises:
            TimeoutError: it did not.
        """
        async with asyncio.timeout(within):
            return await self.service.process.wait()


class Stage:
    """What a run takes place on. Made by `stage`."""

    def __init__(
        self,
        folder: Path,
        place: Path,
        command: Party,
        others: Sequence[Party],
        query: Party,
        other_queries: Sequence[Party],
        upstreams: Sequence[Proxy],
        database: Database | None,
    ) -> None:
        self.folder = folder
        """Of the run."""
        self.place = place
        """Where the services keep what they keep."""
        self.command = command
        self.others = others
        """The command services beside it, on the same log."""
        self.query = query
        self.other_queries = other_queries
        """The query services beside it, each with a command service of its own to follow."""
        self.database = database
        """Of the run's own, if it has one."""
        self._upstreams = upstreams
        self.commands = CommandClient(self.command_address)
        self.queries = QueryClient(self.query_address)

    @property
    def parties(self) -> Sequence[Party]:
        """Every service."""
        return (self.command, *self.others, *self.query_parties)

    @property
    def query_parties(self) -> Sequence[Party]:
        """Every query service."""
        return (self.query, *self.other_queries)

    @property
    def command_address(self) -> str:
        """What clients connect to for commands: all command services take turns."""
        return _address((self.command, *self.others))

    @property
    def query_address(self) -> str:
        """What clients connect to for queries: all query services take turns."""
        return _address(self.query_parties)

    @property
    def log(self) -> Path:
        """The command service's database."""
        return self.place / "command" / "log.db"

    @property
    def store(self) -> Path:
        """The query service's folder."""
        return self.place / "query"

    @property
    def links(self) -> list[Proxy]:
        """Every connection between two parties: the clients', and the services' own."""
        databases = [self.database.link] if self.database is not None else []
        return [*(each.proxies[0] for each in self.parties), *self._upstreams, *databases]


@asynccontextmanager
async def stage(
    folder: Path,
    command: Launch,
    query: Launch,
    place: Path | None = None,
    log: str = "",
    others: int = 0,
    other_queries: int = 0,
    database: Database | None = None,
) -> AsyncIterator[Stage]:
    """A command service, and a query service that follows it, running; both with clients.

    Args:
        folder: of the run.
        command: how to start the one.
        query: how to start the other.
        place: where they keep what they keep, if not in the folder.
        log: URL of the command services' log; empty: a file in that place.
        others: command services beside the first, with a log that several can have.
        other_queries: query services beside the first, at most as many: each follows one of those.
        database: that keeps the command services' log, instead.
    """
    place = place or folder
    (place / "command").mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:

        async def proxy() -> Proxy:
            return await stack.enter_async_context(Proxy.to("127.0.0.1:9"))

        log = database.url if database else log or f"sqlite:{place / 'command' / 'log.db'}"
        commands = [
            Party(name, command, log_options(log), folder, await proxy())
            for name in _names("command", 1 + others)
        ]
        queries, upstreams = [], []
        for name, followed in zip(_names("query", 1 + other_queries), commands, strict=False):
            upstreams.append(await proxy())
            followed.proxies.append(upstreams[-1])
            arguments = ("--upstream", upstreams[-1].address, "--store", str(place / name))
            queries.append(Party(name, query, arguments, folder, await proxy()))
        for party in (*commands, *queries):
            await party.start()
            stack.push_async_callback(_end, party)
        actors = Stage(
            folder, place, commands[0], commands[1:], queries[0], queries[1:], upstreams, database
        )
        stack.push_async_callback(actors.commands.channel.close)
        stack.push_async_callback(actors.queries.channel.close)
        yield actors


def _address(parties: Sequence[Party]) -> str:
    first, *others = [each.proxies[0].address for each in parties]
    return f"ipv4:{','.join([first, *others])}" if others else first


def _names(kind: str, count: int) -> Sequence[str]:
    return [kind, *(f"{kind}-{number}" for number in range(2, count + 1))]


async def _end(party: Party) -> None:
    if party.service.process.returncode is None:
        party.thaw()
        await party.kill()
