import pytest
from google.protobuf.message import Message

from command_service.aggregates.user import USER_RULES
from shared.errors import AlreadyExists, NotFound, Refused
from tests.domain.specification import Specification
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    DeleteUser,
    EraseUser,
    UserBalanceChanged,
    UserCreated,
    UserDeleted,
    UserErased,
)

user = Specification(USER_RULES)

MAX_INT64 = 9_223_372_036_854_775_807
MIN_INT64 = -9_223_372_036_854_775_808

DELETE = DeleteUser(user_id="user-1")
DELETED = UserDeleted()

ERASE = EraseUser(user_id="user-1")
ERASED = UserErased()


def create(balance: int) -> CreateUser:
    return CreateUser(user_id="user-1", username="ada", balance=balance)


def created(balance: int) -> UserCreated:
    return UserCreated(username="ada", balance=balance)


def change(amount: int) -> ChangeUserBalance:
    return ChangeUserBalance(user_id="user-1", balance_change=amount)


def changed(amount: int) -> UserBalanceChanged:
    return UserBalanceChanged(balance_change=amount)


# Creating


@pytest.mark.parametrize("balance", [0, 100, MAX_INT64])
def test_a_user_is_created_with_a_first_balance(balance: int) -> None:
    user.given().when(create(balance)).then(created(balance))


def test_a_user_is_created_without_an_id_given() -> None:
    user.given().when(CreateUser(username="ada")).then(created(0))


def test_a_user_is_created_only_once() -> None:
    user.given(created(100)).when(create(100)).then_refused(
        AlreadyExists, "USER_ALREADY_EXISTS", "User already exists"
    )


@pytest.mark.parametrize(
    "command", [change(1), change(-1), DELETE, ERASE], ids=lambda command: type(command).__name__
)
def test_nothing_can_be_done_with_a_user_who_was_never_created(command: Message) -> None:
    user.given().when(command).then_refused(NotFound, "USER_NOT_FOUND", "There is no such user")


# Changing the balance


def test_an_amount_is_added_to_the_balance() -> None:
    user.given(created(100)).when(change(50)).then(changed(50))


def test_an_amount_is_taken_from_the_balance() -> None:
    user.given(created(100)).when(change(-30)).then(changed(-30))


def test_the_whole_balance_is_taken() -> None:
    user.given(created(100)).when(change(-100)).then(changed(-100))


def test_no_more_is_taken_than_the_balance() -> None:
    user.given(created(100)).when(change(-101)).then_refused(
        Refused, "INSUFFICIENT_BALANCE", "Insufficient balance", balance="100"
    )


def test_nothing_is_taken_from_an_empty_balance() -> None:
    user.given(created(0)).when(change(-1)).then_refused(
        Refused, "INSUFFICIENT_BALANCE", "Insufficient balance", balance="0"
    )


def test_what_was_taken_before_is_not_taken_again() -> None:
    user.given(created(100), changed(-70), changed(5)).when(change(-36)).then_refused(
        Refused, "INSUFFICIENT_BALANCE", "Insufficient balance", balance="35"
    )


def test_the_smallest_number_there_is_can_never_be_taken() -> None:
    user.given(created(MAX_INT64)).when(change(MIN_INT64)).then_refused(
        Refused, "INSUFFICIENT_BALANCE", "Insufficient balance", balance=str(MAX_INT64)
    )


def test_the_balance_reaches_the_largest_number_there_is() -> None:
    user.given(created(1)).when(change(MAX_INT64 - 1)).then(changed(MAX_INT64 - 1))


def test_the_balance_never_exceeds_the_largest_number_there_is() -> None:
    user.given(created(1)).when(change(MAX_INT64)).then_refused(
        Refused, "BALANCE_OVERFLOW", f"Balance would exceed {MAX_INT64}"
    )


def test_a_balance_at_the_largest_number_there_is_only_shrinks() -> None:
    full = user.given(created(MAX_INT64))
    full.when(change(1)).then_refused(
        Refused, "BALANCE_OVERFLOW", f"Balance would exceed {MAX_INT64}"
    )
    full.when(change(-MAX_INT64)).then(changed(-MAX_INT64))


# Deleting


@pytest.mark.parametrize("balance", [0, 100])
def test_a_user_is_deleted_whatever_the_balance(balance: int) -> None:
    user.given(created(balance)).when(DELETE).then(DELETED)


@pytest.mark.parametrize(
    "command",
    [create(100), change(1), change(-1), change(-101), change(MAX_INT64), DELETE],
    ids=lambda command: type(command).__name__,
)
def test_a_deleted_user_stays_deleted_whatever_is_asked(command: Message) -> None:
    user.given(created(100), DELETED).when(command).then_refused(
        Refused, "USER_DELETED", "User is deleted"
    )


# Erasing


@pytest.mark.parametrize("balance", [0, 100])
def test_a_user_is_erased_whatever_the_balance(balance: int) -> None:
    user.given(created(balance)).when(ERASE).then(ERASED)


def test_a_deleted_user_is_erased_as_well() -> None:
    user.given(created(100), DELETED).when(ERASE).then(ERASED)


@pytest.mark.parametrize("before", [[ERASED], [DELETED, ERASED], [ERASED, DELETED]])
def test_a_user_is_erased_only_once(before: list[Message]) -> None:
    user.given(created(100), *before).when(ERASE).then_refused(
        Refused, "USER_ERASED", "User is erased"
    )


def test_an_erased_user_goes_on_with_the_balance() -> None:
    erased = user.given(created(100), ERASED)
    erased.when(change(-100)).then(changed(-100))
    erased.when(change(-101)).then_refused(
        Refused, "INSUFFICIENT_BALANCE", "Insufficient balance", balance="100"
    )


def test_an_erased_user_is_deleted() -> None:
    user.given(created(100), ERASED).when(DELETE).then(DELETED)


def test_an_erased_user_is_not_created_again() -> None:
    user.given(created(100), ERASED).when(create(100)).then_refused(
        AlreadyExists, "USER_ALREADY_EXISTS", "User already exists"
    )


def test_a_deleted_and_erased_user_stays_deleted() -> None:
    user.given(created(100), DELETED, ERASED).when(change(1)).then_refused(
        Refused, "USER_DELETED", "User is deleted"
    )
