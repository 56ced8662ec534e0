"""A primary and two synchronous standbys on loopback, managed by Patroni.

Patroni keeps what its members have to agree on by Raft among themselves, so that a majority of them
decides who is the primary, and nothing else is needed.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from examples.postgres import as_nobody, free_port, kill_server, package
from tests.torture.machine import reason_it_fails
from tests.torture.workload import RunFailed

NAMES = ("one", "two", "three")

TTL_S = 20
"""How long the primary may be unheard of: the least that Patroni allows."""

LOOP_S = 1
RETRY_S = 3

READY_S = 120.0
"""For a primary to have two synchronous standbys, from nothing or after one has been away."""

PROMOTED_S = TTL_S + 30.0
STOP_S = 20.0
LOOK_S = 0.1
ANSWER_S = 2.0


class ClusterFailed(RunFailed):
    """The cluster did not come to be what it was to be."""


def reason_it_cannot() -> str:
    """Why there can be no cluster on this machine; empty: there can."""
    if find_spec("patroni") is None:
        return "Patroni is not installed; `make failover` does that"
    return reason_it_fails(*_runner(), "true")


def _runner() -> Sequence[str]:
    """What to put before a command: PostgreSQL refuses to run as root.

    Root therefore runs all of it as nobody, who may nevertheless reach Python and the packages,
    wherever they are.
    """
    if os.geteuid() != 0:
        return ()
    return as_nobody("--inh-caps=+dac_override", "--ambient-caps=+dac_override")


class Member:
    """A Patroni, and the server that it looks after.

    Args:
        name: in the cluster.
        folder: of its own.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.port = free_port()
        self.raft = f"127.0.0.1:{free_port()}"
        self.rest = f"127.0.0.1:{free_port()}"
        self.output = folder / "patroni.log"
        self._process: asyncio.subprocess.Process | None = None

    def configure(self, partners: list[str]) -> None:
        """Writes its configuration.

        Args:
            partners: where the others' Raft listens.
        """
        listen = f"127.0.0.1:{self.port}"
        superuser = {"username": "postgres"}
        configuration = {
            "scope": "tidemark",
            "name": self.name,
            "restapi": {"listen": self.rest, "connect_address": self.rest},
            "raft": {
                "data_dir": str(self.folder / "raft"),
                "self_addr": self.raft,
                "partner_addrs": partners,
            },
            "bootstrap": {"dcs": AGREED, "initdb": [{"encoding": "UTF8"}, "data-checksums"]},
            "postgresql": {
                "listen": listen,
                "connect_address": listen,
                "data_dir": str(self.folder / "data"),
                "bin_dir": str(package() / "pginstall" / "bin"),
                "pgpass": str(self.folder / "pgpass"),
                "authentication": dict.fromkeys(("superuser", "replication", "rewind"), superuser),
                "pg_hba": [
                    f"host {what} all 127.0.0.1/32 trust" for what in ("all", "replication")
                ],
                "parameters": {"unix_socket_directories": str(self.folder)},
            },
        }
        # JSON is YAML, which is what Patroni reads.
        (self.folder / "patroni.json").write_text(json.dumps(configuration), encoding="utf-8")

    async def start(self) -> None:
        """Starts its Patroni, which starts the server."""
        command = (sys.executable, "-m", "patroni", str(self.folder / "patroni.json"))
        with self.output.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *_runner(),
                *command,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,
            )

    async def kill(self) -> None:
        """Ends all of its processes at once, as a power cut would."""
        assert self._process is not None  # it was started
        self._process.kill()
        await self._process.wait()
        first, *_ = (self.folder / "data" / "postmaster.pid").read_text(encoding="utf-8").split()
        await asyncio.to_thread(kill_server, int(first))

    async def stop(self) -> None:
        """Has its Patroni end, and that its server."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    @property
    def last_words(self) -> str:
        """The last that it said."""
        return self.output.read_text(encoding="utf-8")[-2000:]


AGREED: Mapping[str, Any] = {
    "ttl": TTL_S,
    "loop_wait": LOOP_S,
    "retry_timeout": RETRY_S,
    # A commit is acknowledged by both standbys, or by the one that is left; never by none.
    "synchronous_mode": True,
    "synchronous_mode_strict": True,
    "synchronous_node_count": 2,
    "postgresql": {
        "use_pg_rewind": True,
        "parameters": {"shared_buffers": "64MB", "max_connections": 60},
    },
}
"""What holds for every member."""


class Cluster:
    """All three. Made by `cluster`."""

    def __init__(self, folder: Path) -> None:
        self.members = {name: Member(name, folder / name) for name in NAMES}
        for member in self.members.values():
            member.folder.mkdir()
            member.configure([each.raft for each in self.members.values() if each is not member])

    @property
    def url(self) -> str:
        """Of the database, whichever member is the primary."""
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members.values())
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"

    async def start(self) -> None:
        """Starts all of it; returns once there are a primary and two synchronous standbys."""
        for member in self.members.values():
            await member.start()
        await self.whole()

    async def stop(self) -> None:
        """Ends all of it."""
        await asyncio.gather(*(member.stop() for member in self.members.values()))

    async def whole(self) -> Member:
        """Returns the primary once both others are its synchronous standbys."""
        await self._until(lambda roles: list(roles.values()).count(STANDBY) == 2, READY_S)
        return await self.primary()

    async def primary(self, *, after: Member | None = None) -> Member:
        """Returns the primary once there is one, which is not the one before."""
        old = after.name if after is not None else ""

        def new(roles: Mapping[str, str]) -> bool:
            return any(role == PRIMARY and name != old for name, role in roles.items())

        roles = await self._until(new, PROMOTED_S)
        [name] = [name for name, role in roles.items() if role == PRIMARY]
        return self.members[name]

    async def _until(self, wanted: Callable[[Mapping[str, str]], bool], within_s: float) -> Any:
        roles: Mapping[str, str] = {}
        try:
            async with asyncio.timeout(within_s):
                while not wanted(roles := await asyncio.to_thread(self._roles)):  # noqa: ASYNC110  # it tells nobody
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            words = "\n".join(each.last_words for each in self.members.values())
            raise ClusterFailed(f"The cluster is still {dict(roles)}\n{words}") from None
        return roles

    def _roles(self) -> Mapping[str, str]:
        """Of the members, as one of them sees it: those that run, and follow as they should."""
        for member in self.members.values():
            try:
                with urllib.request.urlopen(
                    f"http://{member.rest}/cluster", timeout=ANSWER_S
                ) as answer:
                    members = json.load(answer)["members"]
            except OSError:
                continue
            return {
                each["name"]: each["role"]
                for each in members
                if each["state"] in {"running", "streaming"}
            }
        return {}


PRIMARY = "leader"
STANDBY = "sync_standby"
"""Roles, as Patroni calls them."""


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    """One that is whole, and gone afterwards.

    Raises:
        ClusterFailed: it did not become whole.
    """
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tidemark-failover-"))
        stack.callback(shutil.rmtree, folder)
        made = Cluster(folder)
        stack.push_async_callback(made.stop)
        await made.start()
        yield made
