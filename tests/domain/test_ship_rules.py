import pytest
from google.protobuf.message import Message

from command_service.aggregates.ship import SHIP_RULES
from shared.errors import AlreadyExists, NotFound, Refused
from tests.domain.specification import Specification
from tidemark.v1.ship_pb2 import (
    CargoLoaded,
    CargoUnloaded,
    DepartShip,
    DockShip,
    LoadCargo,
    RegisterShip,
    ShipDeparted,
    ShipDocked,
    ShipRegistered,
    UnloadCargo,
)

ship = Specification(SHIP_RULES)

REGISTER = RegisterShip(ship_id="ship-1", name="Ever Given")
REGISTERED = ShipRegistered(name="Ever Given")
DOCK = DockShip(ship_id="ship-1", port="Rotterdam")
DOCKED = ShipDocked(port="Rotterdam")
DEPART = DepartShip(ship_id="ship-1")
DEPARTED = ShipDeparted(departed_from="Rotterdam")


def load(item: str, quantity: int) -> LoadCargo:
    return LoadCargo(ship_id="ship-1", item=item, quantity=quantity)


def loaded(item: str, quantity: int, port: str = "Rotterdam") -> CargoLoaded:
    return CargoLoaded(item=item, quantity=quantity, port=port)


def unload(item: str, quantity: int) -> UnloadCargo:
    return UnloadCargo(ship_id="ship-1", item=item, quantity=quantity)


def unloaded(item: str, quantity: int, port: str = "Rotterdam") -> CargoUnloaded:
    return CargoUnloaded(item=item, quantity=quantity, port=port)


FULL = (REGISTERED, DOCKED, *(loaded(f"item {number}", 1) for number in range(1000)))


# Registering


def test_a_ship_is_registered_under_its_name() -> None:
    ship.given().when(REGISTER).then(REGISTERED)


def test_a_ship_is_registered_without_an_id_given() -> None:
    ship.given().when(RegisterShip(name="Ever Given")).then(REGISTERED)


@pytest.mark.parametrize("since", [(), (DOCKED,), (DOCKED, DEPARTED)])
def test_a_ship_is_registered_only_once(since: tuple[Message, ...]) -> None:
    ship.given(REGISTERED, *since).when(REGISTER).then_refused(
        AlreadyExists, "SHIP_ALREADY_REGISTERED", "Ship is already registered"
    )


@pytest.mark.parametrize(
    "command",
    [DOCK, DEPART, load("silk", 1), unload("silk", 1)],
    ids=lambda command: type(command).__name__,
)
def test_nothing_can_be_done_with_a_ship_that_was_never_registered(command: Message) -> None:
    ship.given().when(command).then_refused(NotFound, "SHIP_NOT_FOUND", "There is no such ship")


# Docking


def test_a_registered_ship_docks() -> None:
    ship.given(REGISTERED).when(DOCK).then(DOCKED)


def test_a_ship_at_sea_docks() -> None:
    ship.given(REGISTERED, DOCKED, DEPARTED).when(DOCK).then(DOCKED)


def test_a_ship_docked_elsewhere_docks_without_departing_first() -> None:
    ship.given(REGISTERED, ShipDocked(port="Shanghai")).when(DOCK).then(DOCKED)


def test_a_ship_docked_at_the_port_docks_there_again() -> None:
    ship.given(REGISTERED, DOCKED).when(DOCK).then(DOCKED)


# Departing


def test_a_docked_ship_departs_from_its_port() -> None:
    ship.given(REGISTERED, DOCKED).when(DEPART).then(ShipDeparted(departed_from="Rotterdam"))


def test_a_ship_departs_from_the_last_port_it_docked_at() -> None:
    ship.given(REGISTERED, DOCKED, ShipDocked(port="Shanghai")).when(DEPART).then(
        ShipDeparted(departed_from="Shanghai")
    )


def test_a_ship_departs_with_cargo_aboard() -> None:
    ship.given(REGISTERED, DOCKED, loaded("silk", 5)).when(DEPART).then(DEPARTED)


def test_a_ship_that_never_docked_cannot_depart() -> None:
    ship.given(REGISTERED).when(DEPART).then_refused(
        Refused, "SHIP_NOT_DOCKED", "Ship is not docked at any port"
    )


def test_a_ship_at_sea_cannot_depart() -> None:
    ship.given(REGISTERED, DOCKED, DEPARTED).when(DEPART).then_refused(
        Refused, "SHIP_NOT_DOCKED", "Ship is not docked at any port"
    )


# Loading


def test_cargo_is_loaded_at_the_port_the_ship_is_docked_at() -> None:
    ship.given(REGISTERED, DOCKED).when(load("silk", 5)).then(loaded("silk", 5, "Rotterdam"))


def test_cargo_is_loaded_at_the_next_port_after_a_voyage() -> None:
    ship.given(REGISTERED, DOCKED, DEPARTED, ShipDocked(port="Shanghai")).when(
        load("silk", 5)
    ).then(loaded("silk", 5, "Shanghai"))


def test_more_of_an_item_that_is_aboard_is_loaded() -> None:
    ship.given(REGISTERED, DOCKED, loaded("silk", 5)).when(load("silk", 2)).then(loaded("silk", 2))


def test_a_ship_that_never_docked_cannot_be_loaded() -> None:
    ship.given(REGISTERED).when(load("silk", 1)).then_refused(
        Refused, "SHIP_NOT_DOCKED", "Ship must be docked to load cargo"
    )


def test_a_ship_at_sea_cannot_be_loaded() -> None:
    ship.given(REGISTERED, DOCKED, DEPARTED).when(load("silk", 1)).then_refused(
        Refused, "SHIP_NOT_DOCKED", "Ship must be docked to load cargo"
    )


def test_the_thousandth_item_is_loaded() -> None:
    ship.given(*FULL[:-1]).when(load("silk", 1)).then(loaded("silk", 1))


def test_a_ship_with_a_thousand_items_takes_no_other() -> None:
    ship.given(*FULL).when(load("silk", 1)).then_refused(
        Refused, "TOO_MANY_ITEMS", "Ship already carries 1000 kinds of item"
    )


def test_a_ship_with_a_thousand_items_takes_more_of_each() -> None:
    ship.given(*FULL).when(load("item 999", 7)).then(loaded("item 999", 7))


def test_a_ship_with_a_thousand_items_takes_another_once_one_is_gone() -> None:
    ship.given(*FULL, unloaded("item 0", 1)).when(load("silk", 1)).then(loaded("silk", 1))


# Unloading


def test_part_of_an_item_is_unloaded_at_the_port_the_ship_is_docked_at() -> None:
    ship.given(REGISTERED, DOCKED, loaded("silk", 5), ShipDocked(port="Shanghai")).when(
        unload("silk", 2)
    ).then(unloaded("silk", 2, "Shanghai"))


def test_all_of_an_item_is_unloaded() -> None:
    ship.given(REGISTERED, DOCKED, loaded("silk", 5)).when(unload("silk", 5)).then(
        unloaded("silk", 5)
    )


def test_what_was_loaded_in_parts_is_unloaded_at_once() -> None:
    ship.given(REGISTERED, DOCKED, loaded("silk", 5), loaded("silk", 2)).when(
        unload("silk", 7)
    ).then(unloaded("silk", 7))


def test_a_ship_that_never_docked_cannot_be_unloaded() -> None:
    ship.given(REGISTERED).when(unload("silk", 1)).then_refused(
        Refused, "SHIP_NOT_DOCKED", "Ship must be docked to unload cargo"
    )


def test_a_ship_at_sea_cannot_be_unloaded() -> None:
    ship.given(REGISTERED, DOCKED, loaded("silk", 5), DEPARTED).when(
        unload("silk", 1)
    ).then_refused(Refused, "SHIP_NOT_DOCKED", "Ship must be docked to unload cargo")


def test_an_item_that_is_not_aboard_cannot_be_unloaded() -> None:
    ship.given(REGISTERED, DOCKED, loaded("tea", 5)).when(unload("silk", 1)).then_refused(
        Refused, "CARGO_NOT_ABOARD", "No silk on the ship"
    )


def test_an_item_is_gone_once_all_of_it_is_unloaded() -> None:
    ship.given(REGISTERED, DOCKED, loaded("silk", 5), unloaded("silk", 5)).when(
        unload("silk", 1)
    ).then_refused(Refused, "CARGO_NOT_ABOARD", "No silk on the ship")


def test_no_more_of_an_item_is_unloaded_than_is_aboard() -> None:
    ship.given(REGISTERED, DOCKED, loaded("silk", 5), loaded("tea", 9)).when(
        unload("silk", 6)
    ).then_refused(Refused, "NOT_ENOUGH_CARGO", "Not enough silk on the ship", aboard="5")


def test_what_was_unloaded_before_is_no_longer_aboard() -> None:
    ship.given(REGISTERED, DOCKED, loaded("silk", 5), unloaded("silk", 3)).when(
        unload("silk", 3)
    ).then_refused(Refused, "NOT_ENOUGH_CARGO", "Not enough silk on the ship", aboard="2")


def test_an_item_is_known_by_its_exact_name() -> None:
    ship.given(REGISTERED, DOCKED, loaded("silk", 5)).when(unload("Silk", 1)).then_refused(
        Refused, "CARGO_NOT_ABOARD", "No Silk on the ship"
    )
