"""Clients of both domains who do everything at once that makes a history worth checking.

Each has a deck of moves, one of each kind, which it shuffles and plays through again and again: so
every kind of move is made in every run, in an order that the seed decides.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.message import Message

from tests.history.recorded import Failure, Unknown
from tests.torture.recorder import Recorder, command_id_of
from tests.torture.world import (
    HOT,
    KNOWN,
    PORTS,
    WARM,
    Acknowledged,
    World,
    anything,
    creation,
    kind_of,
    under,
    voyage,
)
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.query_pb2 import AsOf, ReplayRequest
from tidemark.v1.ship_pb2 import (
    DockShip,
    GetShipRequest,
    ListPortCargoRequest,
    ListPortsRequest,
    ListShipsRequest,
)
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    DeleteUser,
    GetUserRequest,
    ListBalanceChangesRequest,
    ListUsersRequest,
)

INSIST_S = 20.0
"""How long somebody who got no answer goes on asking."""

MOVE_S = 0.004
"""Between two moves of a client: to be many is what the clients are for, not to be fast."""


class RunFailed(Exception):
    """Something that a run needs could not be had."""


Move = Callable[[], Awaitable[None]]


class Writer:
    """A client that sends commands, and asks again what it got no answer to."""

    def __init__(self, recorder: Recorder, world: World, seed: str) -> None:
        self._recorder = recorder
        self._world = world
        self._choose = random.Random(seed)  # noqa: S311  # no secret
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
                await asyncio.sleep(MOVE_S)

    async def _do(self, command: Message, **context: object) -> Any:
        """Sends a command under an id of its own until its outcome is known."""
        identified = under(command, command_id=self._new_id(), **context)
        answer = await self._recorder.command(identified)
        return await self._insist(identified, answer)

    async def _insist(self, command: Message, answer: CommandReceipt | Failure | Unknown) -> Any:
        until = time.monotonic() + INSIST_S
        answer = await self._recorder.insist(command, answer, until)
        if isinstance(answer, CommandReceipt):
            self._world.note(command, answer)
        return answer

    def _new_id(self) -> str:
        return str(UUID(int=self._choose.getrandbits(128), version=4))

    def _earlier(self) -> Acknowledged | None:
        """A command of the clients' that had an effect, and an id to be repeated under."""
        known = [each for each in self._world.acknowledged if command_id_of(each.command)]
        return self._choose.choice(known) if known else None

    # The moves

    async def _hot(self) -> None:
        await self._do(anything(self._choose, self._choose.choice(HOT)))

    async def _warm(self) -> None:
        await self._do(anything(self._choose, self._choose.choice(WARM)))

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
        key = kind_of(command), str(getattr(command, command.DESCRIPTOR.fields[0].name))
        await self._do(command, expected_version=self._world.versions.get(key, 0))

    async def _expect_wrong_version(self) -> None:
        await self._do(anything(self._choose, self._choose.choice(KNOWN)), expected_version=10**6)

    async def _retry(self) -> None:
        if earlier := self._earlier():
            answer = await self._recorder.command(earlier.command)
            await self._insist(earlier.command, answer)

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


class Reader:
    """A client that asks: now, as it was, after its own writes, in lists."""

    def __init__(self, recorder: Recorder, world: World, seed: str) -> None:
        self._recorder = recorder
        self._world = world
        self._choose = random.Random(seed)  # noqa: S311  # no secret

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            for request in self._deck():
                await self._recorder.ask(request)
                await asyncio.sleep(MOVE_S)

    def _deck(self) -> list[Message]:
        known = self._choose.choice(KNOWN)
        hot = self._choose.choice(HOT)
        position = self._world.position
        deck: list[Message] = [
            GetShipRequest(ship_id=known),
            GetUserRequest(user_id=known),
            GetShipRequest(ship_id=known, min_position=position),
            GetUserRequest(user_id=hot, min_position=position),
            GetShipRequest(ship_id="absent-1", min_position=position),
            ListShipsRequest(page_size=10, min_position=position),
            ListShipsRequest(port=self._choose.choice(PORTS)),
            ListUsersRequest(page_size=10),
            ListPortsRequest(min_position=position),
            ListPortCargoRequest(port=self._choose.choice(PORTS), min_position=position),
            ListBalanceChangesRequest(user_id=hot, page_size=20),
            ReplayRequest(aggregate_type="ship", aggregate_id=known, include_state=True),
        ]
        if position:
            past = AsOf(position=self._choose.randint(1, position))
            deck += [
                GetShipRequest(ship_id=hot, as_of=past),
                GetUserRequest(user_id=known, as_of=past),
                GetShipRequest(ship_id=hot, as_of=AsOf(version=1), min_position=position),
                ReplayRequest(aggregate_type="user", aggregate_id=hot, until=past),
            ]
        if self._world.times:
            moment = AsOf(time=self._choose.choice(self._world.times))
            deck += [
                GetUserRequest(user_id=hot, as_of=moment),
                GetShipRequest(ship_id=hot, as_of=moment),
            ]
        self._choose.shuffle(deck)
        return deck


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
            Writer(recorder(f"writer-{tenant}-{n}", tenant), world, f"{seed} {tenant} {n}")
            for tenant, world in worlds.items()
            for n in range(3)
        ]
        self._readers = [
            Reader(recorder(f"reader-{tenant}", tenant), world, f"{seed} {tenant}")
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
        return [each.run() for each in self._readers]

    def stop(self) -> None:
        """Has the writers finish."""
        for each in self._writers:
            each.stopping.set()
