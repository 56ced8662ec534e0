"""The lists: what is on them, and their pages."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message

from query_service.pages import Cursor
from shared.aggregates.ship import SHIP
from shared.aggregates.user import USER
from shared.log.log import MAX_PAGE_BYTES
from tests.services.caller import Caller, but
from tests.services.deployment import Deployment
from tests.services.histories import folded, states
from tests.services.refusals import invalid, missing
from tests.services.traffic import ITEMS, PORTS, cargo_of, ports_of, traffic
from tidemark.v1.command_pb2 import CommandContext
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import (
    DepartShip,
    DockShip,
    ListPortCargoRequest,
    ListPortsRequest,
    ListShipsRequest,
    LoadCargo,
    Port,
    RegisterShip,
    ShipStatus,
    UnloadCargo,
)
from tidemark.v1.user_pb2 import (
    BalanceChange,
    ChangeUserBalance,
    CreateUser,
    DeleteUser,
    ListBalanceChangesRequest,
    ListUsersRequest,
    UserBalanceChanged,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]

DOCKED = ShipStatus.SHIP_STATUS_DOCKED
AT_SEA = ShipStatus.SHIP_STATUS_AT_SEA


# Pages of any list


def rows(response: Any) -> list[Any]:
    """What a page lists: its one repeated field."""
    (listed,) = [value for field, value in response.ListFields() if field.is_repeated] or [[]]
    return list(listed)


async def pages(caller: Caller, request: Any) -> list[list[Any]]:
    """The rows of every page from the request's on."""
    response = await caller.ask(request)
    found = [rows(response)]
    while response.next_page_token:
        response = await caller.ask(but(request, page_token=response.next_page_token))
        found.append(rows(response))
        assert len(found) < 2000
    return found


async def listed(caller: Caller, request: Any) -> list[Any]:
    """The rows of all pages."""
    return [row for page in await pages(caller, request) for row in page]


# Ships, ports and their cargo


async def test_ships_are_listed_as_they_are_by_id(caller: Caller) -> None:
    await caller.do(*traffic(1, 300))
    ships = states(SHIP, await caller.events())

    assert len(ships) == 9
    assert await listed(caller, ListShipsRequest()) == ships


async def test_ships_are_selected_by_status_and_port(caller: Caller) -> None:
    await caller.do(*traffic(2, 300), RegisterShip(ship_id="new", name="New"))
    ships = states(SHIP, await caller.events())

    assert {ship.status for ship in ships} == set(ShipStatus.values()[1:])
    for status in ShipStatus.values():
        for port in ("", *PORTS, "Nowhere"):
            expected = [
                ship
                for ship in ships
                if status in (0, ship.status) and port in ("", ship.current_port)
            ]
            request = ListShipsRequest(status=status, port=port, page_size=2)
            assert await listed(caller, request) == expected


async def test_an_unknown_status_is_invalid(caller: Caller) -> None:
    for status in (4, -1, 2**31 - 1):
        with invalid("status"):
            request = ListShipsRequest()
            request.MergeFromString(b"\x08" + _varint(status))
            await caller.ask(request)


def _varint(number: int) -> bytes:
    """As protobuf writes an int32, so that no enum's bounds are in the way."""
    number &= 2**64 - 1
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


@pytest.mark.parametrize("port", ["x" * 257, "a\0b", " "])
async def test_a_bad_port_is_invalid(caller: Caller, port: str) -> None:
    with invalid("port"):
        await caller.ask(ListShipsRequest(port=port))


async def test_ports_count_the_ships_docked_there_now(caller: Caller) -> None:
    await caller.do(*traffic(3, 300))
    expected = ports_of(await caller.events())

    assert [port.name for port in expected] == list(PORTS)
    assert sum(port.ships_docked for port in expected) > 0
    assert await listed(caller, ListPortsRequest()) == expected


async def test_the_cargo_of_every_port_is_the_sum_over_its_ships(caller: Caller) -> None:
    await caller.do(*traffic(4, 600))
    # Commands one by one reach the projection in other batches than a bulk.
    for command in (DockShip(ship_id="ship-1", port="Oslo"), DepartShip(ship_id="ship-1")):
        await caller.do(command)
        await caller.ask(ListPortsRequest())
    events = await caller.events()

    for port in PORTS:
        expected = cargo_of(port, events)
        assert any(each.aboard for each in expected)
        assert await listed(caller, ListPortCargoRequest(port=port)) == expected


async def cargo(caller: Caller, port: str) -> dict[str, tuple[int, int, int]]:
    """Aboard, loaded and unloaded at a port, by item."""
    moved = await listed(caller, ListPortCargoRequest(port=port))
    return {each.item: (each.aboard, each.loaded, each.unloaded) for each in moved}


async def loaded_in_oslo(caller: Caller) -> None:
    """A ship named one is docked at Oslo, where it has loaded 5 silk."""
    await caller.do(
        RegisterShip(ship_id="one", name="Aurora"),
        DockShip(ship_id="one", port="Oslo"),
        LoadCargo(ship_id="one", item="silk", quantity=5),
    )


async def test_what_is_loaded_is_aboard_until_it_is_unloaded(caller: Caller) -> None:
    await loaded_in_oslo(caller)
    assert await cargo(caller, "Oslo") == {"silk": (5, 5, 0)}

    await caller.do(UnloadCargo(ship_id="one", item="silk", quantity=2))
    assert await cargo(caller, "Oslo") == {"silk": (3, 5, 2)}

    await caller.do(UnloadCargo(ship_id="one", item="silk", quantity=3))
    assert await cargo(caller, "Oslo") == {"silk": (0, 5, 5)}


async def test_cargo_from_elsewhere_is_aboard_while_its_ship_is_docked(caller: Caller) -> None:
    await loaded_in_oslo(caller)

    await caller.do(DepartShip(ship_id="one"))
    assert await cargo(caller, "Oslo") == {"silk": (0, 5, 0)}
    await caller.do(DockShip(ship_id="one", port="Rome"))
    assert await cargo(caller, "Rome") == {"silk": (5, 0, 0)}
    await caller.do(DepartShip(ship_id="one"))
    assert await cargo(caller, "Rome") == {}


async def test_a_ship_that_docks_elsewhere_takes_its_cargo_along(caller: Caller) -> None:
    await loaded_in_oslo(caller)

    await caller.do(DockShip(ship_id="one", port="Rome"))

    assert await cargo(caller, "Oslo") == {"silk": (0, 5, 0)}
    assert await cargo(caller, "Rome") == {"silk": (5, 0, 0)}
    assert await listed(caller, ListPortsRequest()) == [
        Port(name="Oslo"),
        Port(name="Rome", ships_docked=1),
    ]


async def test_a_ship_that_docks_where_it_is_counts_once(caller: Caller) -> None:
    await loaded_in_oslo(caller)

    await caller.do(DockShip(ship_id="one", port="Oslo"), DockShip(ship_id="one", port="Oslo"))

    assert await cargo(caller, "Oslo") == {"silk": (5, 5, 0)}
    assert await listed(caller, ListPortsRequest()) == [Port(name="Oslo", ships_docked=1)]


async def test_quantities_add_up_beyond_what_one_command_can_move(caller: Caller) -> None:
    await loaded_in_oslo(caller)

    await caller.do(*[LoadCargo(ship_id="one", item="sand", quantity=10**9) for _ in range(5)])

    assert (await cargo(caller, "Oslo"))["sand"] == (5 * 10**9, 5 * 10**9, 0)


async def test_a_port_nobody_has_docked_at_has_no_cargo(caller: Caller) -> None:
    await loaded_in_oslo(caller)

    assert await cargo(caller, "Rome") == {}


# Users and their statements


async def test_users_are_listed_by_id_without_those_deleted(caller: Caller) -> None:
    ids = [f"user-{number}" for number in (3, 10, 1, 2)]
    await caller.do(*(CreateUser(user_id=each, username=each, balance=1) for each in ids))
    await caller.do(
        DeleteUser(user_id="user-2"), ChangeUserBalance(user_id=ids[0], balance_change=1)
    )
    users = states(USER, await caller.events())

    assert await listed(caller, ListUsersRequest()) == [user for user in users if not user.deleted]


async def test_a_statement_has_the_balance_after_each_change_newest_first(caller: Caller) -> None:
    await caller.do(CreateUser(user_id="one", username="ada", balance=100))
    await caller.do(
        *(
            ChangeUserBalance(
                user_id="one",
                balance_change=change,
                context=CommandContext(correlation_id=f"order {change}"),
            )
            for change in (5, -30, 2**40, -1)
        )
    )
    events = await caller.events("one")

    statement = await listed(caller, ListBalanceChangesRequest(user_id="one", page_size=3))

    assert [each.balance_change for each in statement] == [-1, 2**40, -30, 5]
    assert statement == statement_of(events)


async def test_a_long_statement_is_right_on_every_page(caller: Caller) -> None:
    changes = [(-1) ** n * (1500 - n) for n in range(1100)]
    await caller.do(
        CreateUser(user_id="one", username="ada", balance=2000),
        *(ChangeUserBalance(user_id="one", balance_change=change) for change in changes),
    )
    balances = [2000 + sum(changes[: n + 1]) for n in range(len(changes))]

    for size in (70, 1000):
        request = ListBalanceChangesRequest(user_id="one", page_size=size)
        statement = await listed(caller, request)

        assert [each.version for each in statement] == list(range(1101, 1, -1))
        assert [each.balance_change for each in statement] == changes[::-1]
        assert [each.balance for each in statement] == balances[::-1]


def statement_of(events: list[RecordedEvent]) -> list[BalanceChange]:
    """What ListBalanceChanges has to say of a user's events."""
    changes = []
    for number, event in enumerate(events, start=1):
        payload = USER.unpack(event)
        if isinstance(payload, UserBalanceChanged):
            changes.append(
                BalanceChange(
                    version=number,
                    occurred_at=event.occurred_at,
                    balance_change=payload.balance_change,
                    balance=folded(USER, events[:number]).balance,
                    correlation_id=event.correlation_id,
                )
            )
    return changes[::-1]


async def test_a_user_without_changes_has_an_empty_statement(caller: Caller) -> None:
    await caller.do(CreateUser(user_id="one", username="ada", balance=1))

    assert await listed(caller, ListBalanceChangesRequest(user_id="one")) == []
    with missing("USER_NOT_FOUND"):
        await caller.ask(ListBalanceChangesRequest(user_id="other"))


async def test_changes_between_two_pages_do_not_shift_a_statement(caller: Caller) -> None:
    await caller.do(CreateUser(user_id="one", username="ada", balance=100))
    change = ChangeUserBalance(user_id="one", balance_change=1)
    await caller.do(*[change] * 4)
    request = ListBalanceChangesRequest(user_id="one", page_size=2)
    first = await caller.ask(request)

    await caller.do(*[change] * 3)
    second = await caller.ask(but(request, page_token=first.next_page_token))

    assert [each.version for each in first.changes] == [5, 4]
    assert [each.version for each in second.changes] == [3, 2]
    assert second.next_page_token == ""


# Pages


ROWS = 1200

# Each list with more rows than a page may have.
LISTS: dict[str, tuple[Callable[[], list[Message]], Any]] = {
    "ships": (
        lambda: [RegisterShip(ship_id=f"{n}", name="Aurora") for n in range(ROWS)],
        ListShipsRequest(),
    ),
    "ports": (
        lambda: [
            RegisterShip(ship_id="one", name="Aurora"),
            *(DockShip(ship_id="one", port=f"{n}") for n in range(ROWS)),
        ],
        ListPortsRequest(),
    ),
    "cargo": (
        lambda: [
            RegisterShip(ship_id="one", name="Aurora"),
            RegisterShip(ship_id="two", name="Borealis"),
            DockShip(ship_id="one", port="Oslo"),
            DockShip(ship_id="two", port="Oslo"),
            *(
                LoadCargo(ship_id=("one", "two")[n % 2], item=f"{n}", quantity=1)
                for n in range(ROWS)
            ),
        ],
        ListPortCargoRequest(port="Oslo"),
    ),
    "users": (
        lambda: [CreateUser(user_id=f"{n}", username="ada", balance=0) for n in range(ROWS)],
        ListUsersRequest(),
    ),
    "changes": (
        lambda: [
            CreateUser(user_id="one", username="ada", balance=0),
            *(ChangeUserBalance(user_id="one", balance_change=1) for _ in range(ROWS)),
        ],
        ListBalanceChangesRequest(user_id="one"),
    ),
}
every_list = pytest.mark.parametrize("name", LISTS)


def key(row: Any) -> Any:
    """What a list is in the order of."""
    if isinstance(row, BalanceChange):
        return -row.version
    fields = row.DESCRIPTOR.fields_by_name
    return getattr(
        row, next(each for each in ("ship_id", "user_id", "name", "item") if each in fields)
    )


@every_list
async def test_pages_of_any_size_show_every_row_once_in_order(caller: Caller, name: str) -> None:
    commands, request = LISTS[name]
    await caller.do(*commands())

    by_size = {}
    for size in (0, 7, 600, 1000):
        by_size[size] = await pages(caller, but(request, page_size=size))

    whole = [row for page in by_size[0] for row in page]
    assert len(whole) == ROWS
    assert [key(row) for row in whole] == sorted(key(row) for row in whole)
    assert len({key(row) for row in whole}) == ROWS
    for found in by_size.values():
        assert [row for page in found for row in page] == whole
    assert [len(page) for page in by_size[1000]] == [1000, 200]
    # No empty last page.
    assert [len(page) for page in by_size[600]] == [600, 600]
    assert {len(page) for page in by_size[7][:-1]} == {7}
    assert len(by_size[0][0]) <= 1000


@every_list
async def test_the_smallest_page_has_one_row(caller: Caller, name: str) -> None:
    commands, request = LISTS[name]
    await caller.do(*commands()[:10])

    found = await pages(caller, but(request, page_size=1))

    assert len(found) > 5
    assert {len(page) for page in found} == {1}


@every_list
@pytest.mark.parametrize("size", [1001, 2**31 - 1, -1, -(2**31)])
async def test_a_page_size_out_of_bounds_is_invalid(caller: Caller, name: str, size: int) -> None:
    _, request = LISTS[name]

    with invalid("page_size"):
        await caller.ask(but(request, page_size=size))


async def test_a_list_of_nothing_is_one_empty_page(caller: Caller) -> None:
    for request in (ListShipsRequest(), ListPortsRequest(), ListUsersRequest()):
        assert await pages(caller, request) == [[]]


async def test_pages_go_on_whatever_comes_and_goes_between_them(caller: Caller) -> None:
    def create(*user_ids: str) -> list[Message]:
        return [CreateUser(user_id=each, username=each, balance=0) for each in user_ids]

    await caller.do(*create("b", "d", "f", "h", "j", "l"))
    request = ListUsersRequest(page_size=2)
    first = await caller.ask(request)

    # Before the cursor, at it, after it, and the last.
    await caller.do(*create("a", "e", "k"))
    await caller.do(*(DeleteUser(user_id=each) for each in ("b", "d", "f", "l")))
    rest = await listed(caller, but(request, page_token=first.next_page_token))

    assert [user.user_id for user in first.users] == ["b", "d"]
    assert [user.user_id for user in rest] == ["e", "h", "j", "k"]


async def test_a_token_goes_on_with_another_page_size(caller: Caller) -> None:
    await caller.do(*(RegisterShip(ship_id=each, name=each) for each in "abcdef"))
    first = await caller.ask(ListShipsRequest(page_size=1))

    rest = await pages(caller, ListShipsRequest(page_size=3, page_token=first.next_page_token))

    assert [[ship.ship_id for ship in page] for page in rest] == [["b", "c", "d"], ["e", "f"]]


async def test_pages_go_on_after_the_longest_keys(caller: Caller) -> None:
    long = "\N{SAILBOAT}\N{ROWBOAT}" * 127 + "\N{SHIP}"
    names = [f"{n}{long}" for n in range(3)]
    ids = [f"{n}" + "\N{SHIP}" * 31 for n in range(3)]
    await caller.do(
        *(RegisterShip(ship_id=each, name="Aurora") for each in ids),
        *(DockShip(ship_id=ids[0], port=name) for name in names),
        *(LoadCargo(ship_id=ids[0], item=name, quantity=1) for name in names),
        *(CreateUser(user_id=each, username="ada") for each in ids),
    )

    for request, keys in (
        (ListShipsRequest(), ids),
        (ListPortsRequest(), names),
        (ListPortCargoRequest(port=names[-1]), names),
        (ListUsersRequest(), ids),
    ):
        found = await pages(caller, but(request, page_size=1))
        assert [[key(row) for row in page] for page in found] == [[each] for each in keys]


async def test_a_page_ends_near_one_mebibyte(caller: Caller) -> None:
    item = "\N{SAILBOAT}" * 60 + "\N{ANCHOR}" * 180
    for ship_id in "abcde":
        await caller.do(
            RegisterShip(ship_id=ship_id, name="Aurora"),
            DockShip(ship_id=ship_id, port="Oslo"),
            *(LoadCargo(ship_id=ship_id, item=f"{n} {item}", quantity=1) for n in range(600)),
        )

    found = await pages(caller, ListShipsRequest(page_size=1000))

    assert [ship.ship_id for page in found for ship in page] == list("abcde")
    assert len(found) > 1
    largest = max(ship.ByteSize() for page in found for ship in page)
    for page in found[:-1]:
        size = sum(ship.ByteSize() for ship in page)
        assert MAX_PAGE_BYTES - largest <= size <= MAX_PAGE_BYTES + largest


# Tokens that are none


def forged(request: Any, tenant_id: str, first: Any, last: Any) -> str:
    """A token that is well made, of a key that no list has."""
    return Cursor(request, tenant_id, first).token(last)


def encoded(content: bytes) -> str:
    """Bytes as a token carries them, behind a wrong checksum."""
    return base64.urlsafe_b64encode(bytes(8) + content).decode()


MALFORMED = {
    "no base64": "?",
    "bad padding": "abc",
    "no ASCII": "ä" * 8,
    "a NUL": "AAAA\0AAA",
    "too short": "AAAA",
    "only a checksum": encoded(b""),
    "no Unicode": encoded(b"\xff\xfe"),
    "a lone surrogate": encoded(b"\xed\xa0\x80"),
    "wrong checksum": encoded(b"1"),
    "too long": encoded(b"a" * 3000),
    "deeply nested": encoded(b"[" * 1400),
    "a great number": encoded(b"9" * 1400),
}


@every_list
@pytest.mark.parametrize("token", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_token_is_invalid(caller: Caller, name: str, token: str) -> None:
    commands, request = LISTS[name]
    await caller.do(*commands()[:6])

    with invalid("page_token"):
        await caller.ask(but(request, page_token=token))


@pytest.mark.parametrize("last", [2**63, 2**70, -(2**63) - 1])
async def test_a_forged_number_that_no_list_has_is_invalid(caller: Caller, last: int) -> None:
    await caller.do(*LISTS["changes"][0]()[:6])
    request = ListBalanceChangesRequest(user_id="one")

    with invalid("page_token"):
        await caller.ask(but(request, page_token=forged(request, caller.tenant_id, 1, last)))


async def token_of(caller: Caller, request: Any) -> str:
    """The token of the second page."""
    token = (await caller.ask(but(request, page_size=1))).next_page_token
    assert token
    return str(token)


async def test_a_token_of_another_list_is_invalid(caller: Caller) -> None:
    await caller.do(
        *(RegisterShip(ship_id=each, name=each) for each in "ab"),
        *(CreateUser(user_id=each, username=each, balance=1) for each in "ab"),
        *(DockShip(ship_id="a", port=port) for port in ("Oslo", "Rome")),
        *(LoadCargo(ship_id="a", item=item, quantity=1) for item in ITEMS),
        *(ChangeUserBalance(user_id="a", balance_change=1) for _ in range(3)),
    )
    requests = [
        ListShipsRequest(),
        ListPortsRequest(),
        ListPortCargoRequest(port="Rome"),
        ListUsersRequest(),
        ListBalanceChangesRequest(user_id="a"),
    ]
    tokens = [await token_of(caller, request) for request in requests]

    for place, request in enumerate(requests):
        for other, token in enumerate(tokens):
            if other != place:
                with invalid("page_token"):
                    await caller.ask(but(request, page_token=token))


async def test_a_token_of_another_selection_is_invalid(caller: Caller) -> None:
    for ship_id in "ab":
        await caller.do(
            RegisterShip(ship_id=ship_id, name=ship_id),
            DockShip(ship_id=ship_id, port="Oslo"),
            *(LoadCargo(ship_id=ship_id, item=item, quantity=1) for item in ITEMS),
        )
    for user_id in "ab":
        change = ChangeUserBalance(user_id=user_id, balance_change=1)
        await caller.do(CreateUser(user_id=user_id, username="ada", balance=1), *[change] * 3)

    for request, others in (
        (
            ListShipsRequest(port="Oslo"),
            [
                ListShipsRequest(),
                ListShipsRequest(port="Rome"),
                ListShipsRequest(port="Oslo", status=DOCKED),
            ],
        ),
        (ListShipsRequest(status=DOCKED), [ListShipsRequest(), ListShipsRequest(status=AT_SEA)]),
        (ListPortCargoRequest(port="Oslo"), [ListPortCargoRequest(port="Rome")]),
        (ListBalanceChangesRequest(user_id="a"), [ListBalanceChangesRequest(user_id="b")]),
    ):
        token = await token_of(caller, request)
        for other in others:
            with invalid("page_token"):
                await caller.ask(but(other, page_token=token))


async def test_a_token_of_another_tenant_is_invalid(caller: Caller, shared: Deployment) -> None:
    stranger = Caller(shared.commands, shared.queries, f"not-{caller.tenant_id}")
    for each in (caller, stranger):
        await each.do(*(CreateUser(user_id=user, username="ada", balance=1) for user in "abc"))
    token = await token_of(caller, ListUsersRequest())

    with invalid("page_token"):
        await stranger.ask(ListUsersRequest(page_token=token))
