"""Everything that can happen to a world, as rules from which Hypothesis makes up histories."""

import itertools
import sys
from collections import Counter
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
from google.protobuf.message import Message
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from shared.log.log import AggregateKey
from shared.security.tenants import EVERY_TENANT
from tests.executor.commands import (
    change,
    command,
    create,
    depart,
    dock,
    load,
    register,
    unload,
    uuid,
)
from tests.log.builders import HOUR
from tests.model.model import Sent
from tests.model.process import Trouble
from tests.model.questions import Question
from tests.model.services import CommandService, QueryService
from tests.model.subscriber import Subscriber
from tests.model.weaknesses import WEAKNESSES
from tests.model.world import World, world
from tidemark.v1.ship_pb2 import (
    GetShipRequest,
    ListPortCargoRequest,
    ListPortsRequest,
    ListShipsRequest,
)
from tidemark.v1.user_pb2 import (
    DeleteUser,
    GetUserRequest,
    ListBalanceChangesRequest,
    ListUsersRequest,
)

# Few aggregates, of the same ids in both tenants and kinds, and small numbers: so that everything
# gets in the way of everything.

IDS = ["ada", "bob"]
PORTS = ["Hull", "Oslo"]

TENANTS = ["acme", "tide"]
BEGINNING = [make(each) for each in IDS for make in (create, register, dock, load)]

services = st.sampled_from(["command", "query"])
tenants = st.sampled_from(TENANTS)
ids = st.sampled_from(["ada", *IDS])
ports = st.sampled_from(PORTS)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(create, ids, balance=st.integers(0, 5)),
    st.builds(change, ids, by=st.integers(-3, 3).filter(bool)),
    st.builds(change, ids, by=st.integers(1, 3)),
    st.builds(DeleteUser, user_id=ids),
    st.builds(register, ids),
    st.builds(dock, ids, port=ports),
    st.builds(dock, ids, port=ports),
    st.builds(depart, ids),
    st.builds(load, ids, quantity=st.integers(1, 2)),
    st.builds(unload, ids, quantity=st.integers(1, 2)),
)
expectations = st.sampled_from([None, None, None, "right", "wrong"])
moments = st.sampled_from(["now", "now", "version", "position", "time"])
lists: st.SearchStrategy[tuple[str, Message]] = st.one_of(
    st.tuples(st.just("ship"), st.builds(ListShipsRequest)),
    st.tuples(st.just("ship"), st.builds(ListShipsRequest, port=ports)),
    st.tuples(st.just("ship"), st.builds(ListPortsRequest)),
    st.tuples(st.just("ship"), st.builds(ListPortCargoRequest, port=ports)),
    st.tuples(st.just("user"), st.builds(ListUsersRequest)),
    st.tuples(st.just("user"), st.builds(ListBalanceChangesRequest, user_id=ids)),
)
Asked = list[tuple[Message, str | None]]
asked: st.SearchStrategy[Asked] = st.lists(
    st.tuples(messages, expectations), min_size=1, max_size=8
)
writers = st.integers(0, 1)
"""The first to be asked, if there are two."""

leasts = st.sampled_from(["any", "any", "head", "beyond"])
pauses = st.floats(0.0, 0.03)
"""Seconds; a command takes some milliseconds."""

pauses_or_none = st.one_of(st.none(), pauses)

troubles = st.sampled_from([None, None, *Trouble])
"""Of the next commit, which is one of many commands for few aggregates."""

asking = rule(
    tenant_id=tenants, asked=asked, writer=writers, pause=pauses_or_none, trouble=troubles
)

places = st.integers(0, 100)
"""After which a process dies; a command passes more than 50, a start some more."""


class Machine(RuleBasedStateMachine):
    """See the module's description."""

    seen: ClassVar[Counter[str]] = Counter()
    """What has happened, in all runs."""

    weakness = ""
    """Of the services, by its name; empty: they are as they should be."""

    def __init__(self) -> None:
        super().__init__()
        self.seen["runs"] += 1
        self._stack = ExitStack()
        self._command_ids = map(uuid, itertools.count(1))
        self.world: World

    @initialize(seed=st.integers(0, 2**16), writers=st.integers(1, 2), is_begun=st.booleans())
    def begin(self, seed: int, writers: int, is_begun: bool) -> None:
        """Has an empty log, or one with something in it."""
        if self.weakness:
            weaken = WEAKNESSES[self.weakness]
            weaken(self._stack.enter_context(pytest.MonkeyPatch.context()))
        self.world = self._stack.enter_context(world(seed, writers))
        if is_begun:
            for tenant_id in TENANTS:
                sent = [self._sent(each, tenant_id, None) for each in BEGINNING]
                self._send(sent, 0, in_order=True)

    def teardown(self) -> None:
        try:
            # What has failed already need not get well.
            if hasattr(self, "world") and sys.exc_info()[0] is None:
                self.world.settle()
                self.seen.update(each.kind for each in self.world.model.sent)
                self.seen.update(self.world.rebuilds)
                self.seen["events"] += self.world.model.timeline.head
        finally:
            self._stack.close()

    @invariant()
    def all_is_true(self) -> None:
        self.seen["steps"] += 1
        self.world.check()

    # Commands

    def can_send(self) -> bool:
        return self.world.command.is_serving

    def can_ask(self) -> bool:
        return self.world.query.is_serving

    def has_sent(self) -> bool:
        return self.can_send() and bool(self.world.model.sent)

    @precondition(can_send)
    @asking
    def send_at_once(self, **drawn: Any) -> None:
        """Sends commands, and waits for the answers, or only for a while."""
        self._send_new(**drawn, in_order=False)

    @precondition(can_send)
    @asking
    def send_in_order(self, **drawn: Any) -> None:
        """The same, as a stream."""
        self._send_new(**drawn, in_order=True)

    @precondition(has_sent)
    @rule(data=st.data(), writer=writers, pause=pauses_or_none)
    def send_again(self, data: st.DataObject, writer: int, pause: float | None) -> None:
        """Sends a command again, perhaps twice at once, and perhaps to another writer."""
        first = data.draw(st.sampled_from(self.world.model.sent))
        head = self.world.command.log.head.position
        sent = [first.again(head) for _ in range(data.draw(st.integers(1, 2)))]
        self._send(sent, writer, in_order=False, pause=pause)

    @precondition(has_sent)
    @rule(data=st.data(), message=messages, writer=writers)
    def send_another_under_its_id(self, data: st.DataObject, message: Message, writer: int) -> None:
        """Sends another command, most likely, under the id of one that was sent."""
        first = data.draw(st.sampled_from(self.world.model.sent)).key
        sent = self._sent(message, first.tenant_id, None, first.command_id)
        self._send([sent], writer, in_order=False)

    @precondition(lambda self: self.world.is_asked)
    @rule()
    def hang_up(self) -> None:
        """Has everybody leave who waits for an answer, be it to a command or to a rebuild."""
        self.seen["hung up"] += 1
        self.world.hang_up()

    def _send_new(
        self,
        tenant_id: str,
        asked: Asked,
        writer: int,
        pause: float | None,
        trouble: Trouble | None,
        *,
        in_order: bool,
    ) -> None:
        sent = [self._sent(message, tenant_id, expected) for message, expected in asked]
        self.world.command.process.trouble = trouble
        self._send(sent, writer, in_order=in_order, pause=pause)

    def _send(
        self, sent: list[Sent], writer: int, *, in_order: bool, pause: float | None = None
    ) -> None:
        self.world.send(sent, writer, in_order=in_order)
        if pause is None:
            self.world.loop.finish(self.world.answered())
        else:
            self.world.let_pass(pause)

    def _sent(
        self, message: Message, tenant_id: str, expectation: str | None, command_id: str = ""
    ) -> Sent:
        made = command(message, command_id or next(self._command_ids), tenant_id=tenant_id)
        expected: int | None = None
        if expectation is not None:
            timeline = self.world.model.timeline
            expected = timeline.version_at(made.key, timeline.head) + (expectation == "wrong")
            made.expected_version = expected
        return Sent(made, expected, self.world.command.log.head.position)

    # Trouble

    @rule(name=services, trouble=st.sampled_from(Trouble))
    def fail_a_commit(self, name: str, trouble: Trouble) -> None:
        """Has the next commit fail."""
        if (service := self._service(name)).is_serving:
            service.process.trouble = trouble

    @rule(name=services, places=places)
    def kill(self, name: str, places: int) -> None:
        """Has a service die soon."""
        if (service := self._service(name)).is_serving:
            service.process.die_after(places)

    @precondition(lambda self: not self.world.command.process.is_alive)
    @rule(places=st.one_of(st.none(), places))
    def start_the_command_service(self, places: int | None) -> None:
        """Starts it again; with places, it dies once more on its way or soon after."""
        self.seen["command service died"] += 1
        self.world.restart_command(places)
        self.seen["command service died in its start"] += not self.world.command.is_serving

    @precondition(lambda self: not self.world.query.process.is_alive)
    @rule(places=st.one_of(st.none(), places))
    def start_the_query_service(self, places: int | None) -> None:
        """The same."""
        self.seen["query service died"] += 1
        self.world.restart_query(places)
        self.seen["query service died in its start"] += not self.world.query.is_serving

    @rule(pause=pauses, shift=st.sampled_from([0, 0, -HOUR, HOUR]))
    def let_pass(self, pause: float, shift: int) -> None:
        """Lets things happen for a while, with a clock that may have jumped."""
        self.world.loop.clock_shift = shift
        self.world.let_pass(pause)

    def _service(self, name: str) -> CommandService | QueryService:
        return self.world.command if name == "command" else self.world.query

    # Questions

    @precondition(can_ask)
    @rule(
        tenant_id=tenants,
        aggregate_id=ids,
        kind=st.sampled_from(["ship", "user"]),
        moment=moments,
        least=leasts,
        data=st.data(),
    )
    def ask_for_one(
        self,
        tenant_id: str,
        aggregate_id: str,
        kind: str,
        moment: str,
        least: str,
        data: st.DataObject,
    ) -> None:
        """Asks for an aggregate, now or at a moment."""
        asked: Any = GetShipRequest() if kind == "ship" else GetUserRequest()
        setattr(asked, f"{kind}_id", aggregate_id)
        asked.min_position = self._position(least)
        timeline = self.world.model.timeline
        key = AggregateKey(tenant_id, kind, aggregate_id)
        match moment:
            case "version":
                versions = st.integers(0, timeline.version_at(key, timeline.head) + 1)
                asked.as_of.version = data.draw(versions)
            case "position":
                asked.as_of.position = data.draw(st.integers(0, timeline.head + 1))
            case "time" if timeline.times:
                time = data.draw(st.sampled_from(timeline.times)) + data.draw(st.integers(-1, 1))
                asked.as_of.time.FromMicroseconds(time)
        self._ask(Question(tenant_id, kind, asked))

    @precondition(can_ask)
    @rule(tenant_id=tenants, kind_and_request=lists, least=leasts)
    def ask_for_many(self, tenant_id: str, kind_and_request: tuple[str, Any], least: str) -> None:
        """Asks for a list."""
        kind, request = kind_and_request
        asked = type(request)(min_position=self._position(least))
        asked.MergeFrom(request)
        self._ask(Question(tenant_id, kind, asked))

    @precondition(can_ask)
    @rule(name=st.sampled_from(["ships", "users"]), pause=pauses)
    def rebuild(self, name: str, pause: float) -> None:
        """Has a projection built anew, and goes on after a while."""
        self.world.rebuild(name)
        self.world.let_pass(pause)

    def _ask(self, question: Question) -> None:
        self.seen[self.world.ask(question)] += 1

    def _position(self, least: str) -> int:
        head = self.world.model.timeline.head
        return {"any": 0, "head": head, "beyond": head + 1}[least]

    # Subscriptions

    def has_subscribers(self) -> bool:
        return bool(self.world.subscribers)

    @precondition(lambda self: len(self.world.subscribers) < 3)
    @rule(
        name=services,
        tenant_id=st.one_of(tenants, st.just(EVERY_TENANT)),
        kinds=st.sampled_from([frozenset[str](), frozenset({"user"})]),
    )
    def subscribe(self, name: str, tenant_id: str, kinds: frozenset[str]) -> None:
        """Has somebody subscribe."""
        subscriber = Subscriber(getattr(self.world, f"{name}_server"), tenant_id, kinds)
        self.world.subscribers.append(subscriber)
        subscriber.go_on(self.world.loop)

    @precondition(has_subscribers)
    @rule(data=st.data())
    def hang_up_or_go_on(self, data: st.DataObject) -> None:
        """Has somebody who subscribes leave, or resume after the last checkpoint."""
        subscriber = data.draw(st.sampled_from(self.world.subscribers))
        if subscriber.is_cut_off:
            subscriber.go_on(self.world.loop)
            self.seen["resumed"] += subscriber.position > 0
        else:
            subscriber.hang_up()
