"""A person is erased: wherever it was, what is personal can be read by nobody any more."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest

from examples.services import Service, start_query_service
from shared.aggregates.user import USER
from shared.personal.sealing import is_sealed
from tests.postgres.databases import keys_of, log_options
from tests.services.caller import Caller
from tests.services.commanding import of, send, send_all
from tests.services.deployment import Deployment, QueryClient, deployment, reason_of
from tests.services.dying_command_service import AFTER, BEFORE, DIES
from tests.services.histories import WholeLog
from tests.services.operating import events_verified, operate
from tests.services.several import several
from tests.services.subscribing import history
from tests.services.test_processes import assert_failed_with_a_sentence, ended
from tests.services.test_projections import caught_up, rebuild
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.personal_pb2 import GetKeysRequest
from tidemark.v1.query_pb2 import AsOf, ReplayRequest
from tidemark.v1.user_pb2 import (
    ChangeUserBalance,
    CreateUser,
    DeleteUser,
    EraseUser,
    GetUserRequest,
    ListBalanceChangesRequest,
    ListUsersRequest,
    User,
    UserCreated,
    WatchUserRequest,
)

pytestmark = pytest.mark.timeout(90)

NAME = "Ada Lovelace-Byron"
CREATE, CHANGE = CreateUser(username=NAME, balance=5), ChangeUserBalance(balance_change=1)
ERASE = EraseUser()
MANY = 205
"""Versions after which there are snapshots, and states that the projection keeps."""


def files_with(folder: Path, content: bytes) -> list[str]:
    """The names of the files, whosever they are, in which that is."""
    paths = [each for each in folder.rglob("*") if each.is_file()]
    return [str(each.relative_to(folder)) for each in paths if content in each.read_bytes()]


async def key_of(client: Any, user_id: str = "ada") -> bytes:
    request = GetKeysRequest(aggregate_type="user", aggregate_ids=[user_id])
    [found] = (await client.keys.GetKeys(request, timeout=10.0)).keys
    return bytes(found.key)


async def erased(caller: Caller, user_id: str = "ada") -> None:
    caller.position = (await send(caller.commands, of(user_id, ERASE), caller.tenant_id)).position


async def names(caller: Caller) -> dict[str, set[str]]:
    """What each query shows as the name of ada."""
    replay = ReplayRequest(aggregate_type="user", aggregate_id="ada", include_state=True)
    replayed = await caller.all(replay)
    first: RecordedEvent = replayed[0].event
    payload = USER.unpack(first)
    assert isinstance(payload, UserCreated)
    past = [await caller.ask(GetUserRequest(user_id="ada", as_of=AsOf(version=version)))
            for version in (1, 2, 201)]  # fmt: skip
    watching = caller.stream(WatchUserRequest(user_id="ada"))
    watched = await watching.read()
    watching.cancel()
    return {
        "GetUser": {(await caller.ask(GetUserRequest(user_id="ada"))).user.username},
        "as of": {each.user.username for each in past},
        "ListUsers": {each.username for each in (await caller.ask(ListUsersRequest())).users},
        "WatchUser": {watched.user.username},
        "events replayed": {payload.username},
        "states replayed": {User.FromString(each.state.value).username for each in replayed},
    }


def every_query(name: str) -> dict[str, set[str]]:
    of_each = ("GetUser", "as of", "ListUsers", "WatchUser", "events replayed", "states replayed")
    return {each: {name} for each in of_each}


async def test_what_is_personal_is_in_answers_and_in_no_file_until_it_is_nowhere(
    own: Deployment,
) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(of("ada", CREATE), *[of("ada", CHANGE)] * MANY)
    key = await key_of(own.commands)
    before = await names(caller)
    sent = [*await history(own.commands.log), *await history(own.queries.log)]
    assert before == every_query(NAME)
    assert files_with(own.folder, b"Lovelace") == []
    assert files_with(own.folder, key) == ["log.keys.db"] or files_with(own.folder, key) == [
        "log.keys.db-wal"
    ]
    for event in (each for each in sent if each.version == 1):
        assert is_sealed(UserCreated.FromString(event.payload.value).username)

    await erased(caller)
    assert await names(caller) == every_query("")
    now = (await caller.ask(GetUserRequest(user_id="ada"))).user
    assert (now.balance, now.erased) == (5 + MANY, True)
    changes = (await caller.ask(ListBalanceChangesRequest(user_id="ada", page_size=1000))).changes
    assert [each.balance for each in changes] == list(range(5 + MANY, 5, -1))
    assert (await send(own.commands, of("ada", CHANGE))).version == MANY + 3
    assert files_with(own.folder, key) == []

    # And it stays so, whatever is made of the log anew.
    for service in (own.query, own.command):
        assert await service.stop() == 0
    backup = own.folder / "backup.db"
    log = f"sqlite:{own.folder / 'log.db'}"
    backed_up = await operate("command_service", "backup", "--log", log, "--to", str(backup))
    assert events_verified(backed_up) == MANY + 3
    assert events_verified(await operate("query_service", "verify", "--store",
                                         str(own.folder / "query"))) == MANY + 3  # fmt: skip
    await own.start_command()
    await own.start_query()
    await rebuild(caller, "users")
    assert await names(caller) == every_query("")
    log_of_both = [await WholeLog.of(each) for each in (own.commands, own.queries)]
    for each in log_of_both:
        assert each.computed_digest == each.checkpoint.digest
    assert files_with(own.folder, key) == []


async def test_who_watches_sees_the_erasure(own: Deployment) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(of("ada", CREATE))
    watching = caller.stream(WatchUserRequest(user_id="ada"))
    shown = [(await watching.read()).user]
    await erased(caller)
    while not shown[-1].erased:
        shown.append((await watching.read()).user)
    watching.cancel()
    assert (shown[0].username, shown[0].erased) == (NAME, False)
    assert (shown[-1].username, shown[-1].balance) == ("", 5)


async def test_of_two_tenants_with_the_same_user_one_is_erased(own: Deployment) -> None:
    one, other = (Caller(own.commands, own.queries, each) for each in ("acme", "umbrella"))
    for each in (one, other):
        await each.do(of("ada", CREATE))
    await erased(one)
    await caught_up(one)
    assert (await one.ask(GetUserRequest(user_id="ada"))).user.username == ""
    assert (await other.ask(GetUserRequest(user_id="ada"))).user.username == NAME


async def test_a_deleted_user_is_erased_from_the_past(own: Deployment) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(of("ada", CREATE), of("ada", DeleteUser()))
    then = GetUserRequest(user_id="ada", as_of=AsOf(version=1))
    assert (await caller.ask(then)).user.username == NAME
    await erased(caller)
    await caught_up(caller)
    assert (await caller.ask(then)).user.username == ""


async def test_without_the_command_service_what_was_asked_for_lately_can_still_be_read(
    own: Deployment,
) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(of("ada", CREATE), of("bob", CREATE), of("eve", CREATE), of("bob", CHANGE))
    await erased(caller, "eve")
    await caller.ask(GetUserRequest(user_id="ada"))
    await own.command.kill()

    assert (await caller.ask(GetUserRequest(user_id="ada"))).user.username == NAME
    assert (await caller.ask(GetUserRequest(user_id="eve"))).user.erased
    changes = await caller.ask(ListBalanceChangesRequest(user_id="bob"))
    assert [each.balance for each in changes.changes] == [6]
    # What cannot be read is not called erased.
    replay = ReplayRequest(aggregate_type="user", aggregate_id="bob")
    asking: list[Callable[[], Awaitable[Any]]] = [
        lambda: caller.ask(GetUserRequest(user_id="bob")),
        lambda: caller.ask(ListUsersRequest()),
        lambda: caller.all(replay),
        lambda: caller.stream(WatchUserRequest(user_id="bob")).read(),
    ]
    for ask in asking:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ask()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(raised.value) == "KEYS_UNAVAILABLE"

    await own.start_command()
    assert (await caller.ask(GetUserRequest(user_id="bob"))).user.username == NAME


async def test_who_follows_a_query_service_has_its_keys_through_that(own: Deployment) -> None:
    far = await start_query_service(
        own.folder / "far", own.query.address, log=own.folder / "far.log"
    )
    queries = QueryClient(far.address, own.access)
    try:
        caller = Caller(own.commands, queries, "default")
        await caller.do(of("ada", CREATE))
        assert (await caller.ask(GetUserRequest(user_id="ada"))).user.username == NAME
        await erased(caller)
        await caught_up(caller)
        then = GetUserRequest(user_id="ada", as_of=AsOf(version=1))
        assert (await caller.ask(then)).user.username == ""
    finally:
        await queries.channel.close()
        await far.stop()


# Killed halfway


@pytest.mark.parametrize("dies", [BEFORE, AFTER])
@pytest.mark.parametrize("is_asked_again", [False, True])
async def test_an_erasure_that_was_killed_halfway_is_finished(
    dies: str, is_asked_again: bool, tmp_path: Path
) -> None:
    async with deployment(tmp_path) as own:
        caller = Caller(own.commands, own.queries, "default")
        await caller.do(of("ada", CREATE))
        key = await key_of(own.commands)
        await own.command.stop()
        address = own.command.address
        own.command = await Service.start(
            "tests.services.dying_command_service",
            *("--listen", address, "--log", f"sqlite:{tmp_path / 'log.db'}"),
            env={DIES: dies},
            log=tmp_path / "dying.log",
        )
        erase = of("ada", ERASE, command_id=str(uuid4()))
        with pytest.raises(grpc.aio.AioRpcError):
            await send(own.commands, erase, wait_for_ready=True)
        assert (files_with(tmp_path, key) == []) is (dies == AFTER)

        await own.start_command()
        if is_asked_again:
            receipt = await send(own.commands, erase, wait_for_ready=True)
            assert (receipt.version, receipt.duplicate) == (2, True)
        assert files_with(tmp_path, key) == []
        caller.position = 2
        await caught_up(caller)
        then = GetUserRequest(user_id="ada", as_of=AsOf(version=1))
        assert (await caller.ask(then)).user.username == ""


# Backups that are put back


async def test_an_older_log_with_the_keys_of_today_shows_the_erased_as_erased(
    own: Deployment,
) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(of("ada", CREATE), of("bob", CREATE))
    backup = own.folder / "backup.db"
    log = own.folder / "log.db"
    await operate("command_service", "backup", "--log", f"sqlite:{log}", "--to", str(backup))
    await erased(caller)
    for service in (own.query, own.command):
        await service.stop()
    for file in own.folder.glob("log.db*"):
        file.unlink()
    shutil.copy(backup, log)
    shutil.rmtree(own.folder / "query")
    await own.start_command()
    await own.start_query()

    caller.position = 2
    ada = (await caller.ask(GetUserRequest(user_id="ada"))).user
    bob = (await caller.ask(GetUserRequest(user_id="bob"))).user
    assert (ada.username, ada.erased, bob.username) == ("", False, NAME)
    assert (await send(own.commands, of("ada", ERASE))).version == 2


async def test_older_keys_are_destroyed_again_and_lost_ones_are_said_to_be_lost(
    own: Deployment,
) -> None:
    caller = Caller(own.commands, own.queries, "default")
    await caller.do(of("ada", CREATE))
    key = await key_of(own.commands)
    await own.command.stop()
    shutil.copy(own.folder / "log.keys.db", own.folder / "older")
    await own.start_command()
    caller.commands = own.commands
    await erased(caller)
    await caller.do(of("bob", CREATE))
    for service in (own.query, own.command):
        await service.stop()
    (own.folder / "older").rename(own.folder / "log.keys.db")
    assert files_with(own.folder, key) == ["log.keys.db"]
    await own.start_command()
    await own.start_query()

    assert files_with(own.folder, key) == []
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await caller.ask(GetUserRequest(user_id="bob"))
    assert raised.value.code() is grpc.StatusCode.DATA_LOSS
    assert reason_of(raised.value) == "KEY_LOST"
    # What nobody can read can be erased.
    await erased(caller, "bob")
    await caught_up(caller)
    assert (await caller.ask(GetUserRequest(user_id="bob"))).user.erased


# Where the keys are


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--log", "postgresql://ada@127.0.0.1:1/log"), ("--keys", "another database")),
        (("--log", "postgresql://ada@127.0.0.1:1/log", "--keys", "sqlite:keys.db"), ("same keys",)),
        (("--log", "sqlite:log.db", "--keys", "sqlite:log.db"), ("backups",)),
        (("--log", "sqlite:log.db", "--keys", "keys.db"), ("--keys", "sqlite:PATH")),
    ],
)
async def test_keys_that_would_be_in_the_wrong_place_are_refused(
    options: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    process = await ended("command_service", "serve", *options, folder=tmp_path)
    assert_failed_with_a_sentence(process, 2, *words)
    assert await asyncio.to_thread(lambda: list(tmp_path.iterdir())) == []


async def test_two_command_services_have_the_same_keys(postgres_url: str, tmp_path: Path) -> None:
    async with several(tmp_path, postgres_url) as deployed:
        one, other = deployed.each
        await send(one, of("ada", CREATE, command_id=str(uuid4())))
        again = of("bob", CREATE, command_id=str(uuid4()))
        await send(one, again)
        assert (await send(other, again)).duplicate
        caller = Caller(other, deployed.queries, "default")
        caller.position = 2
        assert (await caller.ask(GetUserRequest(user_id="ada"))).user.username == NAME
        erase = of("ada", ERASE, command_id=str(uuid4()))
        caller.position = (await send(other, erase)).position
        assert (await send(one, erase)).duplicate
        assert [await key_of(each) for each in (one, other)] == [b"", b""]
        await caught_up(caller)
        then = GetUserRequest(user_id="ada", as_of=AsOf(version=1))
        assert (await caller.ask(then)).user.username == ""
        assert (await caller.ask(GetUserRequest(user_id="bob"))).user.username == NAME


async def test_keys_move_with_their_log(postgres_url: str, tmp_path: Path) -> None:
    async with deployment(tmp_path) as moving:
        caller = Caller(moving.commands, moving.queries, "default")
        await caller.do(of("ada", CREATE), of("bob", CREATE))
        await erased(caller)
        await moving.command.stop()
        source = tmp_path / "log"
        urls = ("--from", f"sqlite:{source}.db", "--to", postgres_url)
        assert (await operate("command_service", "copy", *urls)).code == 0
        urls = ("--from", f"sqlite:{source}.keys.db", "--to", keys_of(postgres_url))
        copied_keys = await operate("command_service", "copy-keys", *urls)
        assert (copied_keys.code, copied_keys.closing.endswith("has all 2 keys")) == (0, True)
        await moving.start_command(*log_options(postgres_url))
        await send_all(moving.commands, "bob", CHANGE)
        caller.position += 1
        await caught_up(caller)
        assert (await caller.ask(GetUserRequest(user_id="bob"))).user.username == NAME
        then = GetUserRequest(user_id="ada", as_of=AsOf(version=1))
        assert (await caller.ask(then)).user.username == ""
