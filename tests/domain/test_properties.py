"""What holds for any sequence of commands.

The commands are drawn from few names and from the ends of the number ranges, so that they meet:
items are loaded twice and unloaded to nothing, balances run over and run out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from command_service.aggregates.rules import Rules
from command_service.aggregates.ship import SHIP_RULES
from command_service.aggregates.user import USER_RULES
from shared.errors import TidemarkError
from tests.domain.specification import fold, record
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import (
    CargoLoaded,
    CargoUnloaded,
    DepartShip,
    DockShip,
    LoadCargo,
    RegisterShip,
    Ship,
    ShipDeparted,
    ShipStatus,
    UnloadCargo,
)
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    DeleteUser,
    EraseUser,
    User,
    UserErased,
)

MAX_INT64 = 2**63 - 1
MIN_INT64 = -(2**63)
MAX_QUANTITY = 1_000_000_000
MAX_ITEMS = 1000


@dataclass
class Step:
    """One command of a run, and what came of it."""

    command: Message
    before: Any = field(repr=False)
    """The state before; None: does not exist."""
    seen: Any = field(repr=False)
    """The same, as `decide` has left it."""
    after: Any = field(repr=False)
    events: list[RecordedEvent] = field(default_factory=list)
    refusal: TidemarkError | None = None


@dataclass
class Run:
    """A run and the events before it."""

    start: list[RecordedEvent] = field(repr=False)
    steps: list[Step]

    @property
    def events(self) -> list[RecordedEvent]:
        """The whole history."""
        return [*self.start, *(event for step in self.steps for event in step.events)]


def run(rules: Rules[Any], start: list[RecordedEvent], commands: Sequence[Message]) -> Run:
    """Decides the commands one after another, each on the state that the ones before it left."""
    steps = []
    state = fold(rules.aggregate, start)
    version = len(start)
    for command in commands:
        step = Step(command, before=copy(state), seen=state, after=copy(state))
        try:
            decided = rules.decide(state, command)
        except TidemarkError as refusal:
            step.refusal = refusal
        else:
            for payload in decided:
                version += 1
                step.events.append(record(rules.aggregate, version, payload))
                step.after = rules.aggregate.fold(step.after, step.events[-1])
        state = copy(step.after)
        steps.append(step)
    return Run(start, steps)


def copy(state: Any) -> Any:
    return None if state is None else type(state).FromString(state.SerializeToString())


# Ships

ports = st.sampled_from(["Rotterdam", "Shanghai", "鹿特丹"])
items = st.sampled_from(["silk", "tea", "rum", "item 0", "item 997"])
quantities = st.one_of(
    st.integers(1, 5), st.sampled_from([MAX_QUANTITY - 1, MAX_QUANTITY]), st.integers(1, 10**9)
)
ship_commands: st.SearchStrategy[Message] = st.one_of(
    st.builds(RegisterShip, ship_id=st.just("ship-1"), name=st.sampled_from(["Ever Given", "👻"])),
    st.builds(DockShip, ship_id=st.just("ship-1"), port=ports),
    st.builds(DepartShip, ship_id=st.just("ship-1")),
    st.builds(LoadCargo, ship_id=st.just("ship-1"), item=items, quantity=quantities),
    st.builds(UnloadCargo, ship_id=st.just("ship-1"), item=items, quantity=quantities),
)


def nearly_full_ship() -> list[RecordedEvent]:
    """Docked, with two items less than it can carry."""
    script = [
        RegisterShip(name="Ever Given"),
        DockShip(port="Rotterdam"),
        *(LoadCargo(item=f"item {number}", quantity=2) for number in range(MAX_ITEMS - 2)),
    ]
    return run(SHIP_RULES, [], script).events


def ship_is_sound(ship: Ship) -> None:
    assert ship.name
    assert ship.status in {
        ShipStatus.SHIP_STATUS_REGISTERED,
        ShipStatus.SHIP_STATUS_DOCKED,
        ShipStatus.SHIP_STATUS_AT_SEA,
    }
    assert (ship.current_port != "") == (ship.status == ShipStatus.SHIP_STATUS_DOCKED)
    assert all(0 < quantity <= MAX_INT64 for quantity in ship.cargo.values())
    assert len(ship.cargo) <= MAX_ITEMS


def ship_event_is_sound(ship: Ship, payload: Message) -> None:
    """What an event says is true of the ship before it."""
    match payload:
        case CargoLoaded() | CargoUnloaded():
            assert ship.status == ShipStatus.SHIP_STATUS_DOCKED
            assert payload.port == ship.current_port
            assert 0 < payload.quantity <= MAX_QUANTITY
        case ShipDeparted():
            assert payload.departed_from == ship.current_port != ""


# Users

first_balances = st.one_of(st.integers(0, 5), st.sampled_from([MAX_INT64 - 1, MAX_INT64]))
balance_changes = st.one_of(
    st.integers(-5, 5).filter(bool),
    st.sampled_from([MIN_INT64, -MAX_INT64, MAX_INT64 - 1, MAX_INT64]),
    st.integers(MIN_INT64, MAX_INT64).filter(bool),
)
user_commands: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        CreateUser,
        user_id=st.just("user-1"),
        username=st.sampled_from(["ada", "李"]),
        balance=first_balances,
    ),
    st.builds(ChangeUserBalance, user_id=st.just("user-1"), balance_change=balance_changes),
    st.builds(ChangeUserBalance, user_id=st.just("user-1"), balance_change=balance_changes),
    st.builds(DeleteUser, user_id=st.just("user-1")),
    st.builds(EraseUser, user_id=st.just("user-1")),
)


def user_is_sound(user: User) -> None:
    assert bool(user.username) is not user.erased
    assert 0 <= user.balance <= MAX_INT64


def user_event_is_sound(user: User, payload: Message) -> None:
    if isinstance(payload, UserErased):
        assert not user.erased, "there is nothing more to be erased"
    else:
        assert not user.deleted, "nothing else happens to a deleted user"


@dataclass
class Domain:
    """What is drawn for one kind of aggregate, and what has to be true of it."""

    rules: Rules[Any]
    commands: st.SearchStrategy[Message]
    starts: list[list[RecordedEvent]]
    is_sound: Callable[[Any], None]
    event_is_sound: Callable[[Any, Message], None]
    reasons: set[str]
    """Of every refusal that there is."""

    def runs(self) -> st.SearchStrategy[Run]:
        """From nothing, or after some history."""
        commands = st.lists(self.commands, min_size=1, max_size=40)
        return st.builds(run, st.just(self.rules), st.sampled_from(self.starts), commands)


SHIP = Domain(
    SHIP_RULES,
    ship_commands,
    [
        [],
        run(SHIP_RULES, [], [RegisterShip(name="Ever Given")]).events,
        nearly_full_ship(),
    ],
    ship_is_sound,
    ship_event_is_sound,
    {
        "SHIP_ALREADY_REGISTERED",
        "SHIP_NOT_FOUND",
        "SHIP_NOT_DOCKED",
        "CARGO_NOT_ABOARD",
        "NOT_ENOUGH_CARGO",
        "TOO_MANY_ITEMS",
    },
)
USER = Domain(
    USER_RULES,
    user_commands,
    [[], run(USER_RULES, [], [CreateUser(username="ada", balance=10)]).events],
    user_is_sound,
    user_event_is_sound,
    {
        "USER_ALREADY_EXISTS",
        "USER_NOT_FOUND",
        "USER_DELETED",
        "USER_ERASED",
        "INSUFFICIENT_BALANCE",
        "BALANCE_OVERFLOW",
    },
)

each_domain = pytest.mark.parametrize("domain", [SHIP, USER], ids=["ship", "user"])
for_any_run = settings(max_examples=100, deadline=None)


@each_domain
def test_the_runs_drawn_have_every_event_and_every_refusal(domain: Domain) -> None:
    # A run without conflicts, rejections and rare events would prove nothing.
    events: set[type[Message]] = set()
    reasons: set[str] = set()

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(drawn=domain.runs())
    def draw(drawn: Run) -> None:
        for step in drawn.steps:
            events.update(type(domain.rules.aggregate.unpack(event)) for event in step.events)
            if step.refusal is not None:
                reasons.add(step.refusal.reason)

    draw()
    assert events == set(domain.rules.aggregate.events)
    assert reasons == domain.reasons


@each_domain
@for_any_run
@given(data=st.data())
def test_the_domain_is_sound_after_every_event(domain: Domain, data: st.DataObject) -> None:
    for step in data.draw(domain.runs()).steps:
        state = copy(step.before)
        for event in step.events:
            if state is not None:
                domain.event_is_sound(state, domain.rules.aggregate.unpack(event))
            state = domain.rules.aggregate.fold(state, event)
            domain.is_sound(state)


@each_domain
@for_any_run
@given(data=st.data())
def test_a_decision_changes_neither_the_state_nor_its_mind(
    domain: Domain, data: st.DataObject
) -> None:
    for step in data.draw(domain.runs()).steps:
        assert step.seen == step.before
        assert answer(domain.rules, step.seen, step.command) == (
            str(step.refusal)
            if step.refusal
            else [domain.rules.aggregate.unpack(event) for event in step.events]
        )


@each_domain
@for_any_run
@given(data=st.data())
def test_a_command_has_events_or_is_refused_and_then_nothing_has_happened(
    domain: Domain, data: st.DataObject
) -> None:
    for step in data.draw(domain.runs()).steps:
        if step.refusal is None:
            assert step.events
            assert step.after.version == version_of(step.before) + len(step.events)
        else:
            assert not step.events
            assert step.after == step.before


@each_domain
@for_any_run
@given(data=st.data())
def test_the_fold_of_what_was_recorded_is_the_state_that_each_decision_saw(
    domain: Domain, data: st.DataObject
) -> None:
    drawn = data.draw(domain.runs())
    state = fold(domain.rules.aggregate, drawn.start)
    for step in drawn.steps:
        assert state == step.seen
        for event in step.events:
            stored = RecordedEvent.FromString(event.SerializeToString(deterministic=True))
            state = domain.rules.aggregate.fold(state, stored)


@each_domain
@for_any_run
@given(data=st.data())
def test_a_state_ahead_of_the_log_differs_from_the_fold_only_in_its_times(
    domain: Domain, data: st.DataObject
) -> None:
    aggregate = domain.rules.aggregate
    drawn = data.draw(domain.runs())
    ahead = fold(aggregate, drawn.start)
    for step in drawn.steps:
        for event in step.events:
            ahead = aggregate.apply(ahead, event.aggregate_id, aggregate.unpack(event))
        assert timeless(ahead) == timeless(step.after)


@each_domain
@for_any_run
@given(data=st.data())
def test_a_snapshot_at_any_point_leads_to_the_same_state(
    domain: Domain, data: st.DataObject
) -> None:
    aggregate = domain.rules.aggregate
    drawn = data.draw(domain.runs())
    events = drawn.events
    point = data.draw(st.integers(min(len(events), 1), len(events)))

    snapshot = fold(aggregate, events[:point])
    state = copy(snapshot)
    for event in events[point:]:
        state = aggregate.fold(state, event)

    assert state == drawn.steps[-1].after


def answer(rules: Rules[Any], state: Any, command: Message) -> str | list[Message]:
    try:
        return list(rules.decide(state, command))
    except TidemarkError as refusal:
        return str(refusal)


def version_of(state: Any) -> int:
    return 0 if state is None else int(state.version)


def timeless(state: Any) -> Any:
    """The state without what only a recorded event's envelope can say."""
    bare = copy(state)
    for name in ("created_at", "updated_at"):
        if bare is not None and name in bare.DESCRIPTOR.fields_by_name:
            bare.ClearField(name)
    return bare
