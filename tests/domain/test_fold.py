import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from command_service.aggregates import RULES
from shared.aggregates.aggregate import Aggregate, CorruptHistory, UnknownEvent
from shared.aggregates.ship import SHIP
from shared.aggregates.user import USER
from shared.log.log import MICROSECONDS
from tests.domain.specification import FIRST_TIME, fold, history, record
from tidemark.v1 import ship_pb2
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import (
    CargoLoaded,
    CargoUnloaded,
    Ship,
    ShipDeparted,
    ShipDocked,
    ShipRegistered,
    ShipStatus,
)
from tidemark.v1.user_pb2 import User, UserBalanceChanged, UserCreated, UserDeleted, UserErased

AGGREGATES: tuple[Aggregate[Any], ...] = tuple(rules.aggregate for rules in RULES)

REGISTERED = ShipRegistered(name="Ever Given")
DOCKED = ShipDocked(port="Rotterdam")
CREATED = UserCreated(username="ada", balance=100)

each_aggregate = pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda each: each.name)
EVENTS = [(aggregate, event) for aggregate in AGGREGATES for event in aggregate.events]
LATER_EVENTS = [
    (aggregate, event) for aggregate, event in EVENTS if event is not aggregate.created_by
]


def shown(value: Any) -> str:
    return value.name if isinstance(value, Aggregate) else value.__name__


each_event = pytest.mark.parametrize(("aggregate", "event"), EVENTS, ids=shown)
each_later_event = pytest.mark.parametrize(("aggregate", "event"), LATER_EVENTS, ids=shown)


def moment(seconds: int) -> int:
    """In seconds since 1970, that many after the first event."""
    return FIRST_TIME // MICROSECONDS + seconds


# What the envelope says


@each_aggregate
def test_the_creation_gives_the_state_its_id_version_and_times(aggregate: Aggregate[Any]) -> None:
    state = aggregate.fold(None, record(aggregate, 1, aggregate.created_by()))

    assert getattr(state, aggregate.id_field) == f"{aggregate.name}-1"
    assert state.version == 1
    assert state.updated_at.seconds == moment(0)


def test_a_user_keeps_the_time_of_its_creation() -> None:
    user = fold(USER, history(USER, CREATED, UserBalanceChanged(balance_change=1), UserDeleted()))

    assert user is not None
    assert (user.created_at.seconds, user.updated_at.seconds) == (moment(0), moment(2))
    assert user.version == 3


def test_a_time_is_kept_to_the_microsecond() -> None:
    event = record(USER, 1, CREATED)
    event.occurred_at.nanos = 123_456_000

    user = USER.fold(None, event)

    assert user.created_at == event.occurred_at
    assert user.updated_at == event.occurred_at


def test_the_fold_keeps_nothing_of_the_event_that_a_later_change_of_it_could_reach() -> None:
    event = record(USER, 1, CREATED)
    user = USER.fold(None, event)
    event.occurred_at.seconds = 0
    assert (user.created_at.seconds, user.updated_at.seconds) == (moment(0), moment(0))


def test_a_ship_moves_on_with_each_event() -> None:
    ship = fold(SHIP, history(SHIP, REGISTERED, DOCKED))
    assert ship == Ship(
        ship_id="ship-1",
        name="Ever Given",
        status=ShipStatus.SHIP_STATUS_DOCKED,
        current_port="Rotterdam",
        version=2,
        updated_at={"seconds": moment(1)},  # type: ignore[arg-type]  # a dict is taken, says protobuf
    )


def test_a_user_moves_on_with_each_event() -> None:
    user = fold(USER, history(USER, CREATED, UserBalanceChanged(balance_change=-30)))
    expected = User(user_id="user-1", username="ada", balance=70, version=2)
    expected.created_at.seconds = moment(0)
    expected.updated_at.seconds = moment(1)
    assert user == expected


def test_a_state_is_folded_in_place() -> None:
    ship = SHIP.fold(None, record(SHIP, 1, REGISTERED))
    assert SHIP.fold(ship, record(SHIP, 2, DOCKED)) is ship


# What evolve makes of the events


def test_an_item_is_summed_up_and_gone_at_zero() -> None:
    events = history(
        SHIP,
        REGISTERED,
        DOCKED,
        CargoLoaded(item="silk", quantity=5, port="Rotterdam"),
        CargoLoaded(item="tea", quantity=9, port="Rotterdam"),
        CargoLoaded(item="silk", quantity=2, port="Rotterdam"),
        CargoUnloaded(item="silk", quantity=4, port="Rotterdam"),
        CargoUnloaded(item="silk", quantity=3, port="Rotterdam"),
    )
    cargo = [dict(ship.cargo) for ship in states(SHIP, events)]
    assert cargo == [
        {},
        {},
        {"silk": 5},
        {"silk": 5, "tea": 9},
        {"silk": 7, "tea": 9},
        {"silk": 3, "tea": 9},
        {"tea": 9},
    ]


def test_a_ship_is_registered_then_docked_then_at_sea() -> None:
    events = history(
        SHIP,
        REGISTERED,
        DOCKED,
        ShipDocked(port="Shanghai"),
        ShipDeparted(departed_from="Shanghai"),
    )
    whereabouts = [(ship.status, ship.current_port) for ship in states(SHIP, events)]
    assert whereabouts == [
        (ShipStatus.SHIP_STATUS_REGISTERED, ""),
        (ShipStatus.SHIP_STATUS_DOCKED, "Rotterdam"),
        (ShipStatus.SHIP_STATUS_DOCKED, "Shanghai"),
        (ShipStatus.SHIP_STATUS_AT_SEA, ""),
    ]


def test_a_deleted_user_keeps_name_and_balance() -> None:
    user = fold(USER, history(USER, CREATED, UserDeleted()))
    assert user is not None
    assert (user.username, user.balance, user.deleted) == ("ada", 100, True)


def test_an_erased_user_keeps_the_balance() -> None:
    user = fold(USER, history(USER, CREATED, UserErased()))
    assert user is not None
    assert (user.username, user.balance, user.erased) == ("", 100, True)


def test_evolve_records_what_no_decision_would_have_allowed() -> None:
    user = fold(USER, history(USER, CREATED, UserBalanceChanged(balance_change=-101)))
    assert user is not None
    assert user.balance == -1


def states(aggregate: Aggregate[Any], events: list[Any]) -> Iterator[Any]:
    """After each event; each one is a copy."""
    state = None
    for event in events:
        state = aggregate.fold(state, event)
        yield aggregate.state.FromString(state.SerializeToString())


@each_event
def test_every_event_leaves_a_trace_in_the_state(
    aggregate: Aggregate[Any], event: type[Message]
) -> None:
    state = aggregate.state()
    aggregate.evolve(state, filled(event))
    assert state != aggregate.state(), f"evolve does not know {event.__name__}"


def filled(event: type[Message]) -> Message:
    """The event with a text in each text field and 1 in each number."""
    values = {
        field.name: "a" if field.type == field.TYPE_STRING else 1
        for field in event.DESCRIPTOR.fields
    }
    return event(**values)


@each_aggregate
def test_every_message_that_no_rpc_carries_is_an_event_of_the_aggregate(
    aggregate: Aggregate[Any],
) -> None:
    file = aggregate.state.DESCRIPTOR.file
    messages = {message.full_name for message in file.message_types_by_name.values()}
    carried = with_parts(
        message
        for service in file.services_by_name.values()
        for method in service.methods
        for message in (method.input_type, method.output_type)
    )
    in_events = with_parts(event.DESCRIPTOR for event in aggregate.events)
    assert aggregate.event_types <= messages
    assert messages - carried == in_events & messages


def with_parts(messages: Iterable[Any]) -> set[str]:
    """The names of the messages and of those in their fields, however deep."""
    found: set[str] = set()
    rest = list(messages)
    while rest:
        message = rest.pop()
        if message.full_name not in found:
            found.add(message.full_name)
            rest += [field.message_type for field in message.fields if field.message_type]
    return found


# Histories that cannot be


@each_later_event
def test_no_event_but_the_creation_begins_a_history(
    aggregate: Aggregate[Any], event: type[Message]
) -> None:
    with pytest.raises(CorruptHistory, match="begins with"):
        aggregate.fold(None, record(aggregate, 1, event()))


@each_aggregate
@pytest.mark.parametrize("version", [0, 2, -1, 1000])
def test_a_history_begins_with_version_1(aggregate: Aggregate[Any], version: int) -> None:
    with pytest.raises(CorruptHistory, match=f"Version {version} of "):
        aggregate.fold(None, record(aggregate, version, aggregate.created_by()))


@pytest.mark.parametrize("version", [4, 5, 1000, 2, 1, 0, -1])
def test_a_version_left_out_or_repeated_is_a_corrupt_history(version: int) -> None:
    ship = fold(SHIP, history(SHIP, REGISTERED, DOCKED))
    before = Ship.FromString(b"" if ship is None else ship.SerializeToString())

    with pytest.raises(
        CorruptHistory, match=f"Version {version} of ship 'ship-1' follows version 2"
    ):
        SHIP.fold(ship, record(SHIP, version, DOCKED))
    with pytest.raises(CorruptHistory):
        read(ship, record(SHIP, version, DOCKED))
    assert ship == before, "the state is as it was"


# Events of a later program


def read(ship: Ship | None, event: RecordedEvent) -> Ship:
    """What who only reads makes of an event."""
    return SHIP.fold_known(ship, event, SHIP.unpack_known(event))


def test_an_event_of_an_unknown_type_is_named() -> None:
    ship = fold(SHIP, history(SHIP, REGISTERED))
    unknown = record(SHIP, 2, REGISTERED)
    unknown.payload.type_url = "type.googleapis.com/tidemark.v1.ShipSunk"

    with pytest.raises(UnknownEvent, match=r"tidemark\.v1\.ShipSunk at position 2"):
        SHIP.fold(ship, unknown)
    assert ship == SHIP.fold(None, record(SHIP, 1, REGISTERED)), "the state is as it was"


def test_an_event_of_another_aggregate_is_unknown() -> None:
    ship = fold(SHIP, history(SHIP, REGISTERED))
    with pytest.raises(UnknownEvent, match="UserDeleted"):
        SHIP.fold(ship, record(SHIP, 2, UserDeleted()))


def test_an_unknown_event_that_is_ignored_only_moves_the_version_and_the_time() -> None:
    ship = SHIP.fold(None, record(SHIP, 1, REGISTERED))
    expected = Ship.FromString(ship.SerializeToString())
    expected.version = 2
    expected.updated_at.seconds = moment(1)

    assert read(ship, record(SHIP, 2, UserDeleted())) == expected


def test_the_history_goes_on_after_an_unknown_event() -> None:
    ship = SHIP.fold(None, record(SHIP, 1, REGISTERED))
    read(ship, record(SHIP, 2, UserDeleted()))
    read(ship, record(SHIP, 3, DOCKED))
    assert (ship.version, ship.current_port) == (3, "Rotterdam")


def test_a_history_does_not_begin_with_an_unknown_event_even_if_it_is_ignored() -> None:
    with pytest.raises(CorruptHistory, match="begins with"):
        read(None, record(SHIP, 1, UserDeleted()))


def test_a_known_event_is_not_ignored() -> None:
    event = record(SHIP, 1, REGISTERED)
    assert read(None, event) == SHIP.fold(None, event)


# What a snapshot depends on


@each_aggregate
def test_the_snapshot_schema_changes_when_evolve_changes_its_mind(
    aggregate: Aggregate[Any],
) -> None:
    versions = [replace_version(aggregate, version).snapshot_schema for version in (1, 2, 3, 12)]
    assert len(set(versions)) == 4


@each_aggregate
def test_the_snapshot_schema_stays_while_nothing_that_it_depends_on_changes(
    aggregate: Aggregate[Any],
) -> None:
    assert replace_version(aggregate, aggregate.evolve_version) is not aggregate
    assert (
        replace_version(aggregate, aggregate.evolve_version).snapshot_schema
        == aggregate.snapshot_schema
    )


def replace_version(aggregate: Aggregate[Any], version: int) -> Aggregate[Any]:
    return replace(aggregate, evolve_version=version)


def test_the_snapshot_schema_is_the_same_in_every_process() -> None:
    program = (
        "from shared.aggregates.user import USER; from shared.aggregates.ship import SHIP; "
        "print(SHIP.snapshot_schema.hex(), USER.snapshot_schema.hex())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == [SHIP.snapshot_schema.hex(), USER.snapshot_schema.hex()]


def test_the_snapshot_schemas_of_two_aggregates_differ() -> None:
    assert len({aggregate.snapshot_schema for aggregate in AGGREGATES}) == len(AGGREGATES)


Change = Callable[[descriptor_pb2.DescriptorProto], None]


def add_a_field(message: descriptor_pb2.DescriptorProto) -> None:
    message.field.add(name="flag", number=100, type="TYPE_STRING", label="LABEL_OPTIONAL")


def rename_a_field(message: descriptor_pb2.DescriptorProto) -> None:
    message.field[1].name = "renamed"


def retype_a_nested_field(message: descriptor_pb2.DescriptorProto) -> None:
    message.nested_type[0].field[1].type = descriptor_pb2.FieldDescriptorProto.TYPE_SINT64


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tidemark.v1.Ship", add_a_field),
        ("tidemark.v1.Ship", rename_a_field),
        ("tidemark.v1.Ship", retype_a_nested_field),
        ("google.protobuf.Timestamp", add_a_field),
    ],
)
def test_the_snapshot_schema_changes_with_the_messages_of_the_state(
    name: str, change: Change
) -> None:
    changed = replace(SHIP, state=ship_class({name: change}))
    assert changed.snapshot_schema != SHIP.snapshot_schema


def test_the_snapshot_schema_stays_when_other_messages_of_the_contract_change() -> None:
    others: dict[str, Change] = {
        "tidemark.v1.ShipDocked": add_a_field,
        "tidemark.v1.DockShip": add_a_field,
    }
    changed = replace(SHIP, state=ship_class(others))
    assert changed.snapshot_schema == SHIP.snapshot_schema


def ship_class(changes: dict[str, Change]) -> type[Any]:
    """The class of the message Ship, from a contract with changes in it."""
    pool = DescriptorPool()

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        definition = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
        for message in definition.message_type:
            change = changes.get(f"{definition.package}.{message.name}")
            if change is not None:
                change(message)
        pool.Add(definition)

    add(ship_pb2.DESCRIPTOR)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tidemark.v1.Ship"))
