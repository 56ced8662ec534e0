"""Clients of both domains who ask, and follow: now, as it was, after their own writes, in lists."""

import asyncio
import random
from typing import Any

from google.protobuf.message import Message

from tests.history.recorded import Subscription
from tests.services.caller import but
from tests.torture.followers import Subscriber
from tests.torture.recorder import Line, Recorder
from tests.torture.world import HOT, JOURNEYS, KNOWN, PORTS, World
from tidemark.v1.event_pb2 import EventFilter
from tidemark.v1.query_pb2 import AsOf, ReplayRequest
from tidemark.v1.ship_pb2 import (
    GetShipRequest,
    ListPortCargoRequest,
    ListPortsRequest,
    ListShipsRequest,
)
from tidemark.v1.user_pb2 import GetUserRequest, ListBalanceChangesRequest, ListUsersRequest

PAGES = 3
"""Of a list that a reader looks at."""

VISIT_EVENTS = 30
"""How far back a visitor begins, and how far on it goes."""

EVERYTHING = EventFilter()


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
                await self._ask(request)

    async def _ask(self, request: Any) -> None:
        """Asks once, or for some pages."""
        for _ in range(PAGES):
            answer = await self._recorder.ask(request)
            await asyncio.sleep(self._world.pace_s)
            if not (token := getattr(answer, "next_page_token", "")):
                return
            request = but(request, page_token=token)

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
            ReplayRequest(
                aggregate_type="ship",
                aggregate_id=known,
                include_state=True,
                min_position=position,
            ),
        ]
        if position:
            past = AsOf(position=self._choose.randint(1, position))
            deck += [
                GetShipRequest(ship_id=hot, as_of=past),
                GetUserRequest(user_id=known, as_of=past),
                GetShipRequest(ship_id=hot, as_of=self._version(hot), min_position=position),
                ReplayRequest(aggregate_type="user", aggregate_id=hot, until=past),
                ReplayRequest(aggregate_type="ship", aggregate_id=hot, until=self._version(hot)),
            ]
        if self._world.times:
            moment = AsOf(time=self._choose.choice(self._world.times))
            deck += [
                GetUserRequest(user_id=hot, as_of=moment),
                GetShipRequest(ship_id=hot, as_of=moment, min_position=position),
            ]
        if self._world.deleted:
            gone = self._choose.choice(self._world.deleted)
            before = AsOf(position=gone.position - self._choose.randint(0, 1))
            deck += [
                GetUserRequest(user_id=gone.aggregate_id, min_position=gone.position),
                GetUserRequest(user_id=gone.aggregate_id, as_of=before),
                ListBalanceChangesRequest(user_id=gone.aggregate_id),
                ReplayRequest(aggregate_type="user", aggregate_id=gone.aggregate_id),
            ]
        self._choose.shuffle(deck)
        return deck

    def _version(self, ship_id: str) -> AsOf:
        """One that the ship is known to have had, and not its first if it had others."""
        newest = self._world.versions["ships", ship_id]
        return AsOf(version=self._choose.randint(min(2, newest), newest))


class Visitor:
    """A client that follows the log for a while, from somewhere, and goes away again."""

    def __init__(self, recorder: Recorder, world: World, seed: str) -> None:
        self._recorder = recorder
        self._world = world
        self._choose = random.Random(seed)  # noqa: S311  # no secret

    async def run(self) -> None:
        """Visits until cancelled."""
        visits = [self._journey, self._from_time, self._from_head]
        while True:
            self._choose.shuffle(visits)
            for visit in visits:
                await visit()
                await asyncio.sleep(self._world.pace_s)

    async def _journey(self) -> None:
        start = max(0, self._world.position - VISIT_EVENTS)
        journey = EventFilter(correlation_ids=JOURNEYS[:1])
        await self._follow(self._wanted(journey, after_position=start))

    async def _from_time(self) -> None:
        if self._world.times:
            moment = self._choose.choice(self._world.times)
            await self._follow(self._wanted(from_time=moment))

    async def _from_head(self) -> None:
        wanted = self._wanted(from_head=True)
        subscriber = Subscriber(wanted, self._line())
        if await subscriber.from_head():
            self._recorder.history.subscriptions.append(wanted)
            await subscriber.until(subscriber.position + VISIT_EVENTS)

    def _wanted(self, event_filter: EventFilter = EVERYTHING, **start: Any) -> Subscription:
        return Subscription(self._recorder.name, self._recorder.tenant_id, event_filter, **start)

    def _line(self) -> Line[Any]:
        return self._choose.choice([self._recorder.commands, self._recorder.queries])

    async def _follow(self, wanted: Subscription) -> None:
        self._recorder.history.subscriptions.append(wanted)
        await Subscriber(wanted, self._line()).until(self._world.position + VISIT_EVENTS)
