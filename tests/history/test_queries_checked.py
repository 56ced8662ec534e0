"""Histories of queries and lists: see `test_checker`."""

from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tests.history.recorded import Failure
from tests.history.story import Story
from tests.history.voyage import ANN, DELETE, DEPART, DOCK, EVER, PAY, broken, first, voyage
from tests.services.caller import but
from tidemark.v1.query_pb2 import AsOf, ReplayRequest
from tidemark.v1.ship_pb2 import (
    SHIP_STATUS_AT_SEA,
    SHIP_STATUS_DOCKED,
    DockShip,
    GetShipRequest,
    GetShipResponse,
    ListPortCargoRequest,
    ListPortCargoResponse,
    ListPortsRequest,
    ListPortsResponse,
    ListShipsRequest,
    ListShipsResponse,
    LoadCargo,
    Port,
    PortCargo,
    RegisterShip,
)
from tidemark.v1.user_pb2 import (
    BalanceChange,
    CreateUser,
    GetUserRequest,
    GetUserResponse,
    ListBalanceChangesRequest,
    ListBalanceChangesResponse,
    ListUsersRequest,
    ListUsersResponse,
)

SHIP = GetShipRequest(ship_id="ever")
USER = GetUserRequest(user_id="ann")
NO_SHIP = Failure(grpc.StatusCode.NOT_FOUND, "SHIP_NOT_FOUND")
NO_USER = Failure(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
TIME = Timestamp(seconds=2)


class Test1WhatWasReadStays:
    def test_a_query_is_answered_of_more_than_the_log_has(self) -> None:
        story = voyage()
        story.says(but(SHIP, min_position=9), ship(story, 9))

        assert first(story) == (1, "client was told of position 9, and the log ends at 6")
        assert broken(story) == [1]


class Test8StatesAreTheFold:
    def test_a_state_that_was_not_so(self) -> None:
        story = voyage()
        story.says(SHIP, but(ship(story, 2), position=3))

        assert broken(story) == [8]

    def test_a_state_that_was_so(self) -> None:
        story = voyage()
        # A query service may be behind.
        story.says(SHIP, ship(story, 2))
        story.says(SHIP, ship(story, 6))

        assert broken(story) == []

    def test_a_user_that_was_deleted(self) -> None:
        story = voyage()
        story.does(DELETE)
        story.says(USER, user(story, 7))

        assert broken(story) == [8]


class Test10AnswersAreOfTheirMoment:
    def test_an_answer_from_before_min_position(self) -> None:
        story = voyage()
        story.says(but(SHIP, min_position=3), ship(story, 2))

        assert broken(story) == [10]

    def test_a_list_from_before_min_position(self) -> None:
        story = voyage()
        request = ListShipsRequest(min_position=3)
        story.says(request, ListShipsResponse(ships=[ship(story, 2).ship], position=2))

        assert broken(story) == [10]

    @pytest.mark.parametrize(
        "as_of", [AsOf(position=2), AsOf(version=2), AsOf(time=Timestamp(seconds=2))], ids=str
    )
    def test_a_past_that_was_not_so(self, as_of: AsOf) -> None:
        story = voyage()
        story.says(GetShipRequest(ship_id="ever", as_of=as_of), ship(story, 3))

        assert broken(story) == [10]

    @pytest.mark.parametrize(
        ("as_of", "position"),
        [
            (AsOf(version=3), 1),
            (AsOf(version=9), 3),
            (AsOf(position=3), 1),
            (AsOf(time=Timestamp(seconds=5)), 1),
        ],
    )
    def test_an_older_past_than_was_asked_for(self, as_of: AsOf, position: int) -> None:
        story = voyage()
        request = GetShipRequest(ship_id="ever", as_of=as_of, min_position=6)
        story.says(request, ship(story, position))

        assert broken(story) == [10]

    @pytest.mark.parametrize(
        ("as_of", "position"),
        [
            (AsOf(version=2), 2),
            (AsOf(position=2), 2),
            (AsOf(time=Timestamp(seconds=2, nanos=999_999_999)), 2),
            # As far as this query service has come.
            (AsOf(time=Timestamp(seconds=5)), 2),
        ],
    )
    def test_the_past_that_was_asked_for(self, as_of: AsOf, position: int) -> None:
        story = voyage()
        story.says(GetShipRequest(ship_id="ever", as_of=as_of), ship(story, position))

        assert broken(story) == []

    def test_the_past_of_what_was_deleted(self) -> None:
        story = voyage()
        story.does(DELETE)
        story.says(GetUserRequest(user_id="ann", as_of=AsOf(position=5)), user(story, 5))
        story.says(GetUserRequest(user_id="ann", as_of=AsOf(position=7)), user(story, 7))

        assert broken(story) == []


class Test10WhatIsThereIsFound:
    @pytest.mark.parametrize(
        "request_",
        [
            GetShipRequest(ship_id="ever", min_position=1),
            GetShipRequest(ship_id="ever", as_of=AsOf(position=1)),
            GetShipRequest(ship_id="ever", as_of=AsOf(version=3), min_position=1),
            GetShipRequest(ship_id="ever", as_of=AsOf(time=TIME), min_position=2),
            ReplayRequest(aggregate_type="ship", aggregate_id="ever", min_position=1),
            ReplayRequest(aggregate_type="ship", aggregate_id="ever", until=AsOf(position=2)),
        ],
        ids=lambda each: str(each).replace("\n", " "),
    )
    def test_something_that_was_there_is_not_found(self, request_: Message) -> None:
        story = voyage()
        story.says(request_, NO_SHIP)

        assert broken(story) == [10]

    @pytest.mark.parametrize(
        "request_",
        [
            SHIP,
            GetShipRequest(ship_id="other", min_position=6),
            GetShipRequest(ship_id="ever", as_of=AsOf(version=1)),
            GetShipRequest(ship_id="ever", as_of=AsOf(version=0), min_position=6),
            GetShipRequest(ship_id="ever", as_of=AsOf(time=TIME)),
            GetShipRequest(ship_id="ever", as_of=AsOf(time=Timestamp()), min_position=6),
            ReplayRequest(aggregate_type="ship", aggregate_id="ever"),
        ],
        ids=lambda each: str(each).replace("\n", " "),
    )
    def test_something_is_not_found_that_may_not_have_been_there(self, request_: Message) -> None:
        story = voyage()
        story.says(request_, NO_SHIP)

        assert broken(story) == []

    @pytest.mark.parametrize(
        "request_",
        [
            but(USER, min_position=7),
            ListBalanceChangesRequest(user_id="ann", min_position=7),
        ],
    )
    def test_what_was_deleted_is_not_found(self, request_: Message) -> None:
        story = voyage()
        story.does(DELETE)
        story.says(request_, NO_USER)

        assert broken(story) == []

    @pytest.mark.parametrize(
        "request_",
        [
            GetUserRequest(user_id="ann", as_of=AsOf(position=4), min_position=4),
            GetUserRequest(user_id="ann", as_of=AsOf(version=3), min_position=4),
            ReplayRequest(aggregate_type="user", aggregate_id="ann", min_position=7),
        ],
    )
    def test_the_past_of_what_was_deleted_is_not_found(self, request_: Message) -> None:
        story = voyage()
        story.does(DELETE)
        story.says(request_, NO_USER)

        assert broken(story) == [10]

    def test_something_is_not_found_that_was_deleted_only_after_the_answer(self) -> None:
        story = voyage()
        story.says(but(USER, min_position=4), NO_USER)
        story.does(DELETE)

        assert broken(story) == [10]

    def test_a_page_token_is_said_to_be_wrong(self) -> None:
        story = voyage()
        wrong = Failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        story.says(ListShipsRequest(page_token="given"), wrong)  # noqa: S106  # no password

        assert broken(story) == [10]

    def test_a_list_is_not_found(self) -> None:
        story = voyage()
        story.says(ListPortsRequest(), NO_SHIP)

        assert broken(story) == [10]

    @pytest.mark.parametrize(
        "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    )
    def test_an_error_that_says_nothing_of_what_is_there(self, code: grpc.StatusCode) -> None:
        story = voyage()
        story.says(but(SHIP, min_position=6), Failure(code, "PROJECTION_BEHIND"))

        assert broken(story) == []


class Test8ListsAreTheFold:
    def harbour(self) -> Story:
        """Three ships in two ports, two users; and how that came."""
        story = voyage()
        for command in (
            RegisterShip(ship_id="aurora", name="Aurora"),
            RegisterShip(ship_id="boreas", name="Boreas"),
            DockShip(ship_id="boreas", port="Kiel"),
            LoadCargo(ship_id="boreas", item="silk", quantity=2),
            LoadCargo(ship_id="ever", item="silk", quantity=5),
            DEPART,
            CreateUser(user_id="bob", username="Bob"),
            PAY,
        ):
            story.does(command)
        return story

    def ships(self, story: Story, *ids: str, token: str = "", at: int = 0) -> ListShipsResponse:
        position = at or story.head
        keys = [EVER._replace(aggregate_id=each) for each in ids]
        states = [story.timeline.state_at(key, position) for key in keys]
        return ListShipsResponse(ships=states, next_page_token=token, position=position)

    def statement(self, story: Story, *versions: int, **fields: Any) -> ListBalanceChangesResponse:
        events = {event.version: event for event in story.timeline.events if of_ann(event)}
        changes = [
            BalanceChange(
                version=version,
                occurred_at=events[version].occurred_at,
                balance_change=-4,
                balance=story.timeline.state(ANN, version).balance,
                correlation_id=events[version].correlation_id,
            )
            for version in versions
        ]
        return ListBalanceChangesResponse(changes=changes, position=story.head, **fields)

    def test_lists_of_what_there_is(self) -> None:
        story = self.harbour()
        users = [story.timeline.state_at(ANN._replace(aggregate_id=x), 14) for x in ("ann", "bob")]
        ports = [Port(name="Kiel", ships_docked=1), Port(name="Oslo")]
        cargo = [PortCargo(item="silk", loaded=5), PortCargo(item="tea", loaded=3)]
        for request, response in (
            (ListShipsRequest(), self.ships(story, "aurora", "boreas", "ever")),
            (ListShipsRequest(status=SHIP_STATUS_AT_SEA), self.ships(story, "ever")),
            (ListShipsRequest(port="Kiel"), self.ships(story, "boreas")),
            (ListShipsRequest(port="Oslo"), self.ships(story)),
            (ListShipsRequest(port="Oslo"), self.ships(story, "ever", at=11)),
            (ListUsersRequest(), ListUsersResponse(users=users, position=14)),
            (ListPortsRequest(), ListPortsResponse(ports=ports, position=14)),
            (ListPortCargoRequest(port="Oslo"), ListPortCargoResponse(cargo=cargo, position=14)),
            (ListBalanceChangesRequest(user_id="ann"), self.statement(story, 3, 2)),
        ):
            story.says(request, response)

        assert broken(story) == []

    @pytest.mark.parametrize(
        ("listed", "shown"),
        [
            (ListShipsRequest(), ("ever",)),
            (ListShipsRequest(), ("aurora", "boreas")),
            (ListShipsRequest(), ()),
            (ListShipsRequest(), ("boreas", "aurora", "ever")),
            (ListShipsRequest(status=SHIP_STATUS_DOCKED), ("boreas", "ever")),
            (ListShipsRequest(port="Kiel"), ("boreas", "ever")),
        ],
        ids=lambda each: str(each).replace("\n", " "),
    )
    def test_a_list_of_other_ships(self, listed: ListShipsRequest, shown: tuple[str, ...]) -> None:
        story = self.harbour()
        story.says(listed, self.ships(story, *shown))

        assert broken(story) == [8]

    def test_a_page_that_lists_an_old_state(self) -> None:
        story = voyage()
        story.says(ListShipsRequest(), but(self.ships(story, "ever", at=2), position=3))

        assert broken(story) == [8]

    @pytest.mark.parametrize(
        ("request_", "response"),
        [
            (ListPortsRequest(), ListPortsResponse()),
            (ListPortsRequest(), ListPortsResponse(ports=[Port(name="Oslo", ships_docked=1)])),
            (ListPortCargoRequest(port="Oslo"), ListPortCargoResponse()),
            (
                ListPortCargoRequest(port="Kiel"),
                ListPortCargoResponse(cargo=[PortCargo(item="silk", aboard=3, loaded=2)]),
            ),
            (ListBalanceChangesRequest(user_id="ann"), ListBalanceChangesResponse()),
            (ListBalanceChangesRequest(user_id="nobody"), ListBalanceChangesResponse()),
            (ListUsersRequest(), ListUsersResponse()),
        ],
        ids=lambda each: str(each).replace("\n", " "),
    )
    def test_a_list_of_something_else(self, request_: Message, response: Message) -> None:
        story = self.harbour()
        story.says(request_, but(response, position=story.head))

        assert broken(story) == [8]

    def test_a_list_of_a_user_that_was_deleted(self) -> None:
        story = voyage()
        story.does(DELETE)
        shown = ListUsersResponse(users=[user(story, 7).user], position=7)
        story.says(ListUsersRequest(), shown)

        assert broken(story) == [8]

    def test_pages_of_a_list(self) -> None:
        story = self.harbour()
        first_page = ListShipsRequest(page_size=1)
        story.says(first_page, self.ships(story, "aurora", token="one"))  # noqa: S106  # no password
        second = ListShipsRequest(page_size=2, page_token="one")  # noqa: S106  # no password
        story.says(second, self.ships(story, "boreas", "ever"))
        # In between, what the next page goes on from may have changed.
        story.does(DOCK)
        story.says(second, self.ships(story, "boreas", "ever"))
        assert broken(story) == []

        story.says(second, self.ships(story, "ever"))
        assert broken(story) == [8]

    def test_pages_of_a_statement(self) -> None:
        story = self.harbour()
        request = ListBalanceChangesRequest(user_id="ann", page_size=1)
        story.says(request, self.statement(story, 3, next_page_token="one"))  # noqa: S106  # no password
        second = but(request, page_token="one")  # noqa: S106  # no password
        story.does(PAY, answer=None)
        story.says(second, self.statement(story, 2))
        assert broken(story) == []

        story.says(second, self.statement(story))
        assert broken(story) == [8]

    @pytest.mark.parametrize(
        ("size", "shown", "token"),
        [
            (2, (), "one"),
            (2, ("aurora",), "one"),
            (2, ("aurora", "boreas"), ""),
            (2, ("aurora", "boreas", "ever"), ""),
            (3, ("aurora", "boreas", "ever"), "one"),
        ],
    )
    def test_a_page_of_another_size_or_wrong_about_the_next(
        self, size: int, shown: tuple[str, ...], token: str
    ) -> None:
        story = self.harbour()
        story.says(ListShipsRequest(page_size=size), self.ships(story, *shown, token=token))

        assert broken(story) == [8]

    def test_a_page_that_nobody_was_given_a_token_for(self) -> None:
        story = self.harbour()
        request = ListShipsRequest(page_token="forged")  # noqa: S106  # no password
        story.says(request, self.ships(story, "aurora", "boreas", "ever"))

        assert broken(story) == [8]

    def test_a_list_in_the_end_that_leaves_one_out(self) -> None:
        story = voyage()
        story.is_shown(ListShipsRequest(), ListShipsResponse(position=6), self.ships(story, "ever"))

        assert broken(story) == [8]
        assert 'as kept by query: it ends before Ship {ship_id: "ever"' in first(story)[1]

    def test_a_rebuild_that_changes_something(self) -> None:
        story = voyage()
        changed = self.ships(story, "ever")
        changed.ships[0].cargo["tea"] = 6
        request = ListShipsRequest(status=SHIP_STATUS_DOCKED)
        story.is_shown(request, self.ships(story, "ever"), changed)

        assert broken(story) == [8]
        assert "as rebuilt by query: row 0" in first(story)[1]


class Test11TenantsNeverMeet:
    def test_another_tenants_state_is_shown(self) -> None:
        story = voyage()
        other = story.timeline.state_at(EVER._replace(tenant_id="blue"), 6)
        story.says(SHIP, GetShipResponse(ship=other, position=6))
        story.says(ListShipsRequest(), ListShipsResponse(ships=[other], position=6))

        assert [each.invariant for each in story.violations()] == [11, 11]

    def test_another_tenants_port_is_listed(self) -> None:
        story = voyage()
        story.does(DockShip(ship_id="ever", port="Secret"), "blue")
        ports = [Port(name="Oslo", ships_docked=1), Port(name="Secret", ships_docked=1)]
        story.says(ListPortsRequest(), ListPortsResponse(ports=ports, position=7))

        assert broken(story) == [11]


def ship(story: Story, position: int) -> GetShipResponse:
    """Ever as it was."""
    return GetShipResponse(ship=story.timeline.state_at(EVER, position), position=position)


def user(story: Story, position: int) -> GetUserResponse:
    """Ann as she was."""
    return GetUserResponse(user=story.timeline.state_at(ANN, position), position=position)


def of_ann(event: Any) -> bool:
    return bool(event.aggregate_id == ANN.aggregate_id)
