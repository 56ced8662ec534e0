"""Clients of both domains who do everything at once that makes a history worth checking.

Each writer has a deck of moves, one of each kind, which it shuffles and plays through again and
again: so every kind of move is made in every run, in an order that the seed decides.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.message import Message

from tests.history.recorded import Failure, Unknown
from tests.torture.readers import Reader, Visitor
from tests.torture.recorder import Recorder, command_id_of
from tests.torture.world import (
    HOT,
    ITEMS,
    JOURNEYS,
    KNOWN,
    PORTS,
    WARM,
    Acknowledged,
    World,
    anything,
    creation,
    id_of,
    kind_of,
    under,
    voyage,
)
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.ship_pb2 import DockShip, LoadCargo
from tidemark.v1.user_pb2 import ChangeUserBalance, DeleteUser

INSIST_S = 45.0
"""How long somebody who got no answer goes on asking: longer than a failover takes."""


class RunFailed(Exception):
    """Something that a run needs could not be had."""


Move = Callable[[], Awaitable[None]]


class Writer:
    """A client that sends commands, and asks again what it got no answer to."""

    def __init__(self, recorder: Recorder, world: World, seed: str, ids: random.Random) -> None:
        self._recorder = recorder
        self._world = world
        self._choose = random.Random(seed)  # noqa: S311  # no secret
        self._ids = ids
        self._created = 0
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Plays until told to stop; then returns when it knows what became of all it did."""
        deck: list[Move] = [
            self._hot,
            self._hot,
            self._hot,
            self._warm,
            self._warm,
            self._bulk,
            self._create_cold,
            self._create_again,
            self._expect_right_version,
            self._expect_wrong_version,
            self._retry,
            self._refused_first,
            self._at_once,
            self._reuse,
            self._validate,
            self._absent,
            self._without_id,
            self._hang_up,
            self._delete,
        ]
        while not self.stopping.is_set():
            self._choose.shuffle(deck)
            for move in deck:
                if self.stopping.is_set():
                    return
                await move()
                await asyncio.sleep(self._world.pace_s)

    async def _do(self, command: Message, **context: object) -> Any:
        """Sends a command under an id of its own until its outcome is known."""
        return await self._send(under(command, command_id=self._new_id(), **context))

    async def _send(self, command: Message) -> Any:
        """The same for a command that has an id."""
        return await self._insist(command, await self._recorder.command(command))

    async def _insist(self, command: Message, answer: CommandReceipt | Failure | Unknown) -> Any:
        until = time.monotonic() + INSIST_S
        answer = await self._recorder.insist(command, answer, until)
        if isinstance(answer, CommandReceipt):
            self._world.note(command, answer)
        return answer

    def _new_id(self) -> str:
        return str(UUID(int=self._ids.getrandbits(128), version=4))

    def _earlier(self) -> Acknowledged | None:
        """A command of the clients' that had an effect, and an id to be repeated under."""
        known = [each for each in self._world.acknowledged if command_id_of(each.command)]
        return self._choose.choice(known) if known else None

    # The moves

    async def _hot(self) -> None:
        await self._do(anything(self._choose, self._choose.choice(HOT)))

    async def _warm(self) -> None:
        command = anything(self._choose, self._choose.choice(WARM))
        await self._do(command, correlation_id=self._choose.choice(JOURNEYS))

    async def _bulk(self) -> None:
        batches = [
            [
                under(anything(self._choose, self._choose.choice(KNOWN)), command_id=self._new_id())
                for _ in range(8)
            ]
            for _ in range(2)
        ]
        for command in await self._recorder.bulk(batches):
            await self._insist(command, Unknown("the stream broke"))

    async def _create_cold(self) -> None:
        self._created += 1
        aggregate_id = f"cold-{self._recorder.name}-{self._created}"
        kind = self._choose.choice(["ships", "users"])
        await self._do(creation(kind, aggregate_id, self._recorder.tenant_id))
        if kind == "ships":
            await self._do(DockShip(ship_id=aggregate_id, port=self._choose.choice(PORTS)))

    async def _create_again(self) -> None:
        kind = self._choose.choice(["ships", "users"])
        await self._do(creation(kind, self._choose.choice(KNOWN), self._recorder.tenant_id))

    async def _expect_right_version(self) -> None:
        command = anything(self._choose, self._choose.choice(KNOWN))
        version = self._world.versions.get((kind_of(command), id_of(command)), 0)
        await self._do(command, expected_version=version)

    async def _expect_wrong_version(self) -> None:
        await self._do(anything(self._choose, self._choose.choice(KNOWN)), expected_version=10**6)

    async def _retry(self) -> None:
        if earlier := self._earlier():
            await self._send(earlier.command)

    async def _refused_first(self) -> None:
        """A command that is refused, and under the same id once there is no reason any more."""
        self._created += 1
        ship_id = f"late-{self._recorder.name}-{self._created}"
        load = LoadCargo(ship_id=ship_id, item=self._choose.choice(ITEMS), quantity=1)
        identified = under(load, command_id=self._new_id())
        await self._do(creation("ships", ship_id, self._recorder.tenant_id))
        await self._send(identified)
        await self._do(DockShip(ship_id=ship_id, port=self._choose.choice(PORTS)))
        await self._send(identified)

    async def _at_once(self) -> None:
        """One command under one id, three times at the same moment."""
        command = under(
            anything(self._choose, self._choose.choice(KNOWN)), command_id=self._new_id()
        )
        names = [f"{self._recorder.name}/{number}" for number in range(3)]
        answers = await asyncio.gather(
            *(self._recorder.command(command, name=name) for name in names)
        )
        for answer in answers:
            await self._insist(command, answer)

    async def _reuse(self) -> None:
        """Another command under the id of one that had an effect."""
        if earlier := self._earlier():
            other = DockShip(ship_id=self._choose.choice(WARM), port="Elsewhere")
            await self._recorder.command(under(other, command_id=command_id_of(earlier.command)))

    async def _validate(self) -> None:
        command = anything(self._choose, self._choose.choice(KNOWN))
        await self._recorder.command(under(command, validate_only=True))

    async def _absent(self) -> None:
        await self._do(voyage(self._choose, f"absent-{self._choose.randrange(5)}"))

    async def _without_id(self) -> None:
        command = anything(self._choose, self._choose.choice(KNOWN))
        answer = await self._recorder.command(command)
        if isinstance(answer, CommandReceipt):
            self._world.note(command, answer)
        elif isinstance(answer, Unknown):
            # It cannot be asked for again; but it is decided before what is sent after it.
            await self._hot()

    async def _hang_up(self) -> None:
        """Sends a command and does not wait for the answer; asks again later."""
        command = under(
            anything(self._choose, self._choose.choice(KNOWN)), command_id=self._new_id()
        )
        within = self._choose.choice([0.0005, 0.002, 0.005])
        answer = await self._recorder.command(command, within=within)
        await self._insist(command, answer)

    async def _delete(self) -> None:
        self._created += 1
        user_id = f"gone-{self._recorder.name}-{self._created}"
        await self._do(creation("users", user_id, self._recorder.tenant_id))
        await self._do(DeleteUser(user_id=user_id))
        await self._do(ChangeUserBalance(user_id=user_id, balance_change=1))


class Workload:
    """All clients of a run.

    Args:
        worlds: what each tenant's clients know.
        recorder: makes a client by its name and tenant.
        seed: decides who does what when.
    """

    def __init__(
        self,
        worlds: dict[str, World],
        recorder: Callable[[str, str], Recorder],
        seed: int,
    ) -> None:
        self._writers = [
            Writer(
                recorder(f"writer-{tenant}-{n}", tenant),
                world,
                f"{seed} {tenant} {n}",
                # The same in every tenant.
                random.Random(f"{seed} {n}"),  # noqa: S311  # no secret
            )
            for tenant, world in worlds.items()
            for n in range(3)
        ]
        self._readers = [
            Reader(recorder(f"reader-{tenant}", tenant), world, f"{seed} {tenant}")
            for tenant, world in worlds.items()
        ]
        self._visitors = [
            Visitor(recorder(f"visitor-{tenant}", tenant), world, f"{seed} {tenant}")
            for tenant, world in worlds.items()
        ]
        self._founders = [
            (recorder(f"founder-{tenant}", tenant), world) for tenant, world in worlds.items()
        ]

    async def found(self) -> None:
        """Brings about the aggregates that everybody knows."""
        for recorder, world in self._founders:
            kinds = ("ships", "users")
            commands = [
                creation(kind, each, recorder.tenant_id) for each in KNOWN for kind in kinds
            ]
            for command in commands:
                identified = under(command, command_id=str(uuid4()))
                answer = await recorder.command(identified)
                until = time.monotonic() + INSIST_S
                answer = await recorder.insist(identified, answer, until)
                if not isinstance(answer, CommandReceipt):
                    raise RunFailed(f"{command} was answered with {answer}")
                world.note(command, answer)

    def writing(self) -> list[Coroutine[Any, Any, None]]:
        """Those who end after `stop`."""
        return [each.run() for each in self._writers]

    def reading(self) -> list[Coroutine[Any, Any, None]]:
        """Those who go on until they are cancelled."""
        readers = [each.run() for each in self._readers]
        return readers + [each.run() for each in self._visitors]

    def stop(self) -> None:
        """Has the writers finish."""
        for each in self._writers:
            each.stopping.set()
