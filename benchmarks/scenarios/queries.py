"""Queries of what is and what was, beside empty calls from as many callers."""

import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import grpc
from google.protobuf.message import Message

from benchmarks import users
from benchmarks.driving import under_load
from benchmarks.empty_server import STREAM, UNARY
from benchmarks.errors import BenchmarkFailed
from benchmarks.logs import Log, start_both
from benchmarks.measurement import Conditions, Measurement
from benchmarks.orders import Order, Requests
from benchmarks.reading_loads import GET_USER
from benchmarks.rounds import Notes
from benchmarks.scenario import Comparison, Group, Scenario, Side
from benchmarks.stage import Stage
from examples.services import Service
from query_service.states import KEPT_EVERY
from tidemark.v1.query_pb2 import AsOf, ReplayRequest
from tidemark.v1.user_pb2 import GetUserRequest, GetUserResponse, ListUsersRequest

LIST_USERS = "/tidemark.v1.UserQueryService/ListUsers"
REPLAY = "/tidemark.v1.ReplayService/Replay"

CALLERS = (16, 64)
PAGE_USERS = 100
WINDOW_SHARE = 0.5
"""There are many scenarios: shorter measurements of each."""

STREAM_WINDOW_SHARE = 2.5
"""A stream of a thousand messages takes a while."""


@dataclass(frozen=True)
class Users:
    """Users with histories of the same length.

    Args:
        first: number of the first.
        count: how many there are.
        events: of each.
    """

    first: int
    count: int
    events: int

    @property
    def numbers(self) -> range:
        """Of all."""
        return range(self.first, self.first + self.count)

    @property
    def ids(self) -> list[str]:
        """Of all."""
        return [users.user_id(number) for number in self.numbers]


MANY = Users(0, 2_000, 10)
SOME = Users(MANY.count, 10, 1_000)


def longest(conditions: Conditions) -> Users:
    """One user with 100,000 events; fewer where logs are small."""
    return Users(MANY.count + SOME.count, 1, conditions.log_events // 10)


def histories(conditions: Conditions) -> Log:
    """A log of users with short and long histories."""
    kinds = (MANY, SOME, longest(conditions))
    events = sum(kind.count * kind.events for kind in kinds)

    def commands() -> Iterator[Message]:
        created = users.created(sum(kind.count for kind in kinds))
        return chain(created, *(_changes(kind) for kind in kinds))

    return Log(f"histories-{events}", events, commands)


@dataclass(frozen=True)
class Query:
    """Calls that ask something.

    Args:
        method: full path of the RPC.
        messages: the requests.
        answers: how many messages each is answered with; None: it is a unary call.
    """

    method: str
    messages: Sequence[Message]
    answers: int | None = None

    def order(self, server: Service, callers: int) -> Order:
        """To ask a query service."""
        messages = [message.SerializeToString() for message in self.messages]
        requests = Requests(random.sample(messages, len(messages)), is_cyclic=True)
        return Order(server.address, self.method, requests, callers, self._load)

    def empty_order(self, server: Service, callers: int) -> Order:
        """To have the empty server answer with as many messages."""
        is_unary = self.answers is None
        requests = Requests([b"" if is_unary else b"%d" % (self.answers or 0)], is_cyclic=True)
        return Order(server.address, UNARY if is_unary else STREAM, requests, callers, self._load)

    @property
    def _load(self) -> str:
        return "unary" if self.answers is None else "stream"


def get(_: Conditions) -> Query:
    """Users as they are."""
    return Query(GET_USER, [GetUserRequest(user_id=each) for each in MANY.ids])


def get_reached(conditions: Conditions) -> Query:
    """The same, at a position that has been reached."""
    position = histories(conditions).events
    messages = [GetUserRequest(user_id=each, min_position=position) for each in MANY.ids]
    return Query(GET_USER, messages)


def list_users(_: Conditions) -> Query:
    """The first page of all users."""
    return Query(LIST_USERS, [ListUsersRequest(page_size=PAGE_USERS)])


def as_of(of: Callable[[Conditions], Users], conditions: Conditions) -> Query:
    """Users as they were half-way, at a version half-way between those that are kept."""
    kind = of(conditions)
    half = kind.events // 2
    moment = AsOf(version=half - half % KEPT_EVERY + KEPT_EVERY // 2 if half > KEPT_EVERY else half)
    return Query(GET_USER, [GetUserRequest(user_id=each, as_of=moment) for each in kind.ids])


def replay(_: Conditions) -> Query:
    """Whole histories."""
    messages = [ReplayRequest(aggregate_type="user", aggregate_id=each) for each in SOME.ids]
    return Query(REPLAY, messages, SOME.events)


@asynccontextmanager
async def compared(
    query_of: Callable[[Conditions], Query], callers: int, stage: Stage
) -> AsyncIterator[Comparison]:
    """Queries beside empty calls; the first time that each is asked does not count."""
    server = await stage.start_empty_server()
    _, service = await start_both(stage, histories(stage.conditions))
    query = query_of(stage.conditions)
    await _check(service, query)
    await _ask_each(service, query)
    yield Comparison(
        Side("empty", partial(_measured, query.empty_order(server, callers), server, stage)),
        Side("query", partial(_measured, query.order(service, callers), service, stage)),
    )


@asynccontextmanager
async def long_and_short(callers: int, stage: Stage) -> AsyncIterator[Comparison]:
    """Half-way through the longest history, beside half-way through shorter ones."""
    _, service = await start_both(stage, histories(stage.conditions))
    notes = Notes()
    p99_ms = {}

    async def measure(of: Callable[[Conditions], Users]) -> Measurement:
        order = as_of(of, stage.conditions).order(service, callers)
        measurement = await _measured(order, service, stage)
        p99_ms[of] = measurement.latency_ms(99)
        if of is longest:
            notes.add("times the p99", p99_ms[longest] / p99_ms[_some])
        return measurement

    comparison = Comparison(
        Side("shorter", partial(measure, _some)), Side("longest", partial(measure, longest))
    )
    yield comparison
    comparison.figures.update(notes.medians())


async def _measured(order: Order, server: Service, stage: Stage) -> Measurement:
    share = WINDOW_SHARE if order.load == "unary" else STREAM_WINDOW_SHARE
    window_s = stage.conditions.window_s * share
    return await under_load([order], [server], replace(stage.conditions, window_s=window_s))


async def _check(service: Service, query: Query) -> None:
    """That users are what they are asked for to be."""
    request = query.messages[0]
    if isinstance(request, GetUserRequest):
        async with grpc.aio.insecure_channel(service.address) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[GetUserRequest, GetUserResponse]
            call = channel.unary_unary(
                query.method,
                request_serializer=GetUserRequest.SerializeToString,
                response_deserializer=GetUserResponse.FromString,
            )
            version = (await call(request)).user.version
        if version != (request.as_of.version or MANY.events):
            raise BenchmarkFailed(f"The user is at version {version}")


async def _ask_each(service: Service, query: Query) -> None:
    """So that the service has the keys of all who are asked for."""
    if query.answers is not None:
        return
    async with grpc.aio.insecure_channel(service.address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(query.method)
        for message in query.messages:
            await call(message.SerializeToString())


def _changes(kind: Users) -> Iterator[Message]:
    for _ in range(kind.events - 1):
        yield from map(users.changed, kind.numbers)


def _many(_: Conditions) -> Users:
    return MANY


def _some(_: Conditions) -> Users:
    return SOME


QUERIES_BY_NAME: dict[str, tuple[str, Callable[[Conditions], Query]]] = {
    "get": ("GetUser", get),
    "get-reached": ("GetUser with a min_position that is reached", get_reached),
    "list": ("ListUsers, a page of 100", list_users),
    "as-of-10": ("GetUser as of the middle of 10 events", partial(as_of, _many)),
    "as-of-1000": ("GetUser as of the middle of 1,000 events", partial(as_of, _some)),
    "as-of-100000": ("GetUser as of the middle of 100,000 events", partial(as_of, longest)),
    "replay-1000": ("from Replay of users with 1,000", replay),
}


def _scenario(
    name: str,
    title: str,
    callers: int,
    compare: Callable[[int, Stage], AbstractAsyncContextManager[Comparison]],
) -> Scenario:
    return Scenario(
        f"{name}-{callers}",
        title,
        "events" if name == "replay-1000" else "queries",
        partial(compare, callers),
        {"callers": callers},
    )


QUERIES = Group(
    name="queries",
    title="Queries",
    scenarios=(
        *(
            _scenario(name, title, callers, partial(compared, query_of))
            for name, (title, query_of) in QUERIES_BY_NAME.items()
            for callers in (CALLERS if name == "get" else CALLERS[:1])
        ),
        _scenario(
            "as-of-length", "GetUser as of 100,000 beside 1,000 events", CALLERS[0], long_and_short
        ),
    ),
)
