"""The services of a run, each behind a proxy, so that every link between two can be attacked."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from examples.services import Service
from tests.services.deployment import CommandClient, QueryClient
from tests.torture.faulty_disk import FAIL_VARIABLE
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
        written = self.switch.with_suffix(".new")
        written.write_text(failure)
        written.rename(self.switch)

    def mend(self) -> None:
        """Has its disk work again."""
        self.switch.unlink()

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
        upstream: Proxy,
    ) -> None:
        self.folder = folder
        """Of the run."""
        self.place = place
        """Where the services keep what they keep."""
        self.command = command
        self.others = others
        """The command services beside it, on the same log."""
        self.query = query
        self.upstream = upstream
        self.commands = CommandClient(self.command_address)
        self.queries = QueryClient(self.query_address)

    @property
    def parties(self) -> Sequence[Party]:
        """Every service."""
        return (self.command, *self.others, self.query)

    @property
    def command_address(self) -> str:
        """What clients connect to for commands: all command services take turns."""
        first, *others = [each.proxies[0].address for each in (self.command, *self.others)]
        return f"ipv4:{','.join([first, *others])}" if others else first

    @property
    def query_address(self) -> str:
        """What clients connect to for queries."""
        return self.query.proxies[0].address

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
        """Every connection between two parties: the clients', and the services' one."""
        commands = [each.proxies[0] for each in (self.command, *self.others)]
        return [*commands, self.query.proxies[0], self.upstream]


@asynccontextmanager
async def stage(
    folder: Path,
    command: Launch,
    query: Launch,
    place: Path | None = None,
    log: str = "",
    others: int = 0,
) -> AsyncIterator[Stage]:
    """A command service, and a query service that follows it, running; both with clients.

    Args:
        folder: of the run.
        command: how to start the one.
        query: how to start the other.
        place: where they keep what they keep, if not in the folder.
        log: URL of the command services' log; empty: a file in that place.
        others: command services beside the first, with a log that several can have.
    """
    place = place or folder
    (place / "command").mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        to_command, to_query, upstream, *to_others = [
            await stack.enter_async_context(Proxy.to("127.0.0.1:9")) for _ in range(3 + others)
        ]
        log = log or f"sqlite:{place / 'command' / 'log.db'}"
        first, *beside = [
            Party(name, command, ("--log", log), folder, proxy)
            for name, proxy in (
                ("command", to_command),
                *((f"command-{number}", proxy) for number, proxy in enumerate(to_others, 2)),
            )
        ]
        first.proxies.append(upstream)
        arguments = ("--upstream", upstream.address, "--store", str(place / "query"))
        last = Party("query", query, arguments, folder, to_query)
        for party in (first, *beside, last):
            await party.start()
            stack.push_async_callback(_end, party)
        actors = Stage(folder, place, first, beside, last, upstream)
        stack.push_async_callback(actors.commands.channel.close)
        stack.push_async_callback(actors.queries.channel.close)
        yield actors


async def _end(party: Party) -> None:
    if party.service.process.returncode is None:
        party.thaw()
        await party.kill()
