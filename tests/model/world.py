"""One log, the two services on it, their clients, and the model that all is held against."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from command_service.calls import CommandStream
from query_service.verifying import verify_store
from shared.errors import Exhausted, TidemarkError, Unavailable
from shared.event_log_service import EventLogService
from shared.log.log import EVERYTHING
from shared.log.sqlite.reading import read
from shared.log.sqlite.verifying import opened, verify_log
from shared.security.tenants import DEFAULT_TENANT
from shared.sqlite import snapshot
from tests.history.timeline import AGGREGATES
from tests.keys.memory import MemoryKeys
from tests.model.model import Model, Sent
from tests.model.process import Died, Process
from tests.model.questions import Question
from tests.model.services import CommandService, QueryService, make_small, simulate
from tests.model.simulation import PATIENCE_S, Simulation
from tests.model.subscriber import Subscriber
from tests.model.wire import call_of
from tests.services.operating import UNFORESEEN
from tests.services.verifying import Findings
from tidemark.v1.query_pb2 import RebuildProjectionRequest
from tidemark.v1.ship_pb2 import ListPortsRequest, ListShipsRequest
from tidemark.v1.user_pb2 import ListUsersRequest

LOOK_S = 0.001
RECOVERY_S = 10.0
"""After the last trouble all is well again, by itself."""


class World:
    """See the module's description. Made by `world`."""

    def __init__(
        self, folder: Path, seed: int, writers: int, told: list[MutableMapping[str, Any]]
    ) -> None:
        self.loop = Simulation(seed)
        self.keys = MemoryKeys()
        self.model = Model(self.keys.keys)
        self.subscribers: list[Subscriber] = []
        self._writers = writers
        self._told = told
        self._asking: list[asyncio.Task[None]] = []
        self.rebuilds: Counter[str] = Counter()
        self.command = CommandService(_first(folder / "command"), writers, self.keys)
        self.query = QueryService(_first(folder / "query"), self.command_server, self.keys)
        for service in (self.command, self.query):
            self._begin(service)

    def close(self) -> None:
        """Ends all of it, wherever it is."""
        for subscriber in self.subscribers:
            subscriber.hang_up()
        for service in (self.command, self.query):
            service.process.die()
            self.loop.finish(service.process.buried())
        self.loop.finish(self.answered())
        self.loop.close()

    def command_server(self) -> tuple[Process, EventLogService | None]:
        """What serves the log."""
        return self.command.process, self.command.event_log

    def query_server(self) -> tuple[Process, EventLogService | None]:
        """What serves the copy of it."""
        return self.query.process, self.query.event_log

    # What clients do

    def send(self, sent: Sequence[Sent], writer: int, *, in_order: bool) -> None:
        """Sends commands, and has `answered` wait for the answers.

        Args:
            sent: them.
            writer: that gets the first; the others take turns.
            in_order: all as one stream, which one writer gets; not all at once.
        """
        self.model.sent += sent
        if in_order:
            self._begin_to_ask(self._stream(sent, writer % self._writers))
        else:
            for number, each in enumerate(sent, writer):
                self._begin_to_ask(self._one(each, number % self._writers))

    def rebuild(self, projection: str) -> None:
        """Has a projection built anew; `answered` waits for the end of it."""
        self._begin_to_ask(self._rebuild(projection))

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._asking)

    async def answered(self) -> None:
        """Returns when every command, and every rebuild, has its answer or will have none."""
        for end in await asyncio.gather(*self._asking, return_exceptions=True):
            if isinstance(end, Exception):
                raise end

    def hang_up(self) -> None:
        """Has everybody leave who waits for an answer."""
        for task in self._asking:
            task.cancel()

    def ask(self, question: Question) -> str:
        """Asks the query service; returns the kind of answer, which is true."""
        try:
            self.loop.finish(question.ask(self.query))
        except Died:
            return "cut off"
        self.look()
        return question.check(self.model.timeline)

    async def in_step(self) -> None:
        """Returns when everybody who follows has everything, or has died."""
        await self._until(lambda: not self.query.process.is_alive or self._is_in_step())

    # What happens to the services

    def let_pass(self, seconds: float) -> None:
        """Lets things happen for a while."""
        self.loop.finish(asyncio.sleep(seconds))

    def restart_command(self, places: int | None = None) -> None:
        """Starts the command service, which is dead, on what it has left.

        Args:
            places: after which it dies again; None: it does not.
        """
        process = self._next_life(self.command.process, places)
        self.command = CommandService(process, self._writers, self.keys)
        self._begin(self.command)

    def restart_query(self, places: int | None = None) -> None:
        """The same, of the query service."""
        process = self._next_life(self.query.process, places)
        self.query = QueryService(process, self.command_server, self.keys)
        self._begin(self.query)

    # What has to be so

    def look(self) -> None:
        """The log is what it was, and perhaps more; nothing has gone wrong."""
        assert not self.loop.unforeseen, self.loop.unforeseen
        assert not self.query.faults, self.query.faults
        grave = [each for each in self._told if each["event"] in UNFORESEEN]
        assert not grave, grave
        self.model.advance(self._records())

    def check(self) -> None:
        """All that was answered and delivered so far is true."""
        self.look()
        self.model.check()
        for subscriber in self.subscribers:
            subscriber.check(self.model.timeline)

    def settle(self) -> None:
        """Without trouble all gets well by itself, and every unknown outcome is found out."""
        self.command.process.spare()
        self.query.process.spare()
        self.loop.finish(self.answered())
        if not self.command.is_serving:
            self.restart_command()
        if not self.query.is_serving:
            self.restart_query()
        self._retry_unknown()
        for subscriber in self.subscribers:
            subscriber.hang_up()
            self.let_pass(LOOK_S)
            subscriber.go_on(self.loop)
        self.loop.finish(asyncio.wait_for(self.in_step(), RECOVERY_S))
        self.check()
        self._ask_for_everything()
        self._verify()

    def _next_life(self, dead: Process, places: int | None) -> Process:
        self.loop.finish(dead.buried())
        process = Process(dead.next_folder)
        if places is not None:
            process.die_after(places)
        return process

    def _begin(self, service: CommandService | QueryService) -> None:
        self.loop.begin(service.process, service.serve())

        def is_begun() -> bool:
            assert not self.loop.unforeseen, self.loop.unforeseen
            return service.is_serving or not service.process.is_alive

        self.loop.finish(self._until(is_begun))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  # no time passes but the simulation's
            await asyncio.sleep(LOOK_S)

    async def _one(self, sent: Sent, writer: int) -> None:
        service = self.command
        try:
            answer = await service.process.answer(service.executors[writer].execute, sent.command)
        except Died:
            return
        except TidemarkError as error:
            sent.note(error, service.log.head.position)
        else:
            sent.note(answer, service.log.head.position)

    async def _stream(self, sent: Sequence[Sent], writer: int) -> None:
        service = self.command
        commands = [each.command for each in sent]
        try:
            answers = await service.process.answer(
                service.executors[writer].submit, commands, CommandStream()
            )
        except Died:
            return
        for each, answer in zip(sent, answers, strict=True):
            each.note(answer, service.log.head.position)

    async def _rebuild(self, projection: str) -> None:
        service = self.query
        call = call_of(DEFAULT_TENANT, PATIENCE_S)
        request = RebuildProjectionRequest(name=projection)
        try:
            await service.process.answer(service.projections.rebuild_projection, request, call)
        except Died:
            return
        except (Exhausted, Unavailable):
            if not service.process.has_met_trouble:
                raise
            self.rebuilds["rebuild failed"] += 1
        else:
            self.rebuilds["rebuilt"] += 1

    def _begin_to_ask(self, asking: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(asking)
        self._asking.append(task)
        task.add_done_callback(self._asking.remove)

    def _retry_unknown(self) -> None:
        known = {each.key for each in self.model.sent if each.answer is not None}
        unknown = {each.key: each for each in self.model.sent if each.key not in known}
        head = self.command.log.head.position
        self.send([each.again(head) for each in unknown.values()], 0, in_order=False)
        self.loop.finish(self.answered())

    def _is_in_step(self) -> bool:
        head = self.command.log.head
        return (
            self.query.log.head.digest == head.digest
            and all(each.position == head.position for each in self.query.projectors.values())
            and all(each.position == head.position for each in self.subscribers)
        )

    def _ask_for_everything(self) -> None:
        timeline = self.model.timeline
        for tenant_id in sorted({key.tenant_id for key in timeline.moments}):
            for kind, request in (
                ("ship", ListShipsRequest(min_position=timeline.head)),
                ("ship", ListPortsRequest(min_position=timeline.head)),
                ("user", ListUsersRequest(min_position=timeline.head)),
            ):
                answer = self.ask(Question(tenant_id, kind, request))
                assert answer.startswith("List"), answer

    def _verify(self) -> None:
        findings = Findings()
        with opened(self._log_path()) as db:
            verify_log(db, AGGREGATES.values(), findings)
        verify_store(self.query.process.folder, findings)
        assert not findings.sentences, findings.sentences

    def _log_path(self) -> Path:
        process = self.command.process
        return (process.folder if process.is_alive else process.next_folder) / "log.db"

    def _records(self) -> list[bytes]:
        if not self._log_path().exists():
            return []
        with snapshot(self._log_path()) as db:
            if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'chunks'").fetchone():
                return []
            return read(db, 0, 2**31, 2**31, EVERYTHING).records


def _first(folder: Path) -> Process:
    path = folder / "1"
    path.mkdir(parents=True)
    return Process(path)


@contextmanager
def world(seed: int = 0, writers: int = 1) -> Iterator[World]:
    """A world with an empty log, of which nothing is left afterwards."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        simulate(patch)
        make_small(patch)
        told = stack.enter_context(capture_logs())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = World(folder, seed, writers, told)
        stack.callback(made.close)
        yield made
