"""Two command services on one PostgreSQL: racing, killed, and refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from grpc import StatusCode

from tests.postgres.databases import log_options
from tests.services.caller import OF_EVERY_TENANT, Caller
from tests.services.commanding import CALL_S, failure, of, send
from tests.services.deployment import CommandClient, reason_of
from tests.services.histories import WholeLog
from tests.services.several import Several, several
from tests.services.subscribing import history, reached
from tests.services.test_processes import assert_failed_with_a_sentence, ended
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.ship_pb2 import DockShip, RegisterShip
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser, GetUserRequest

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

REGISTER = RegisterShip(name="Ever")
DOCK = DockShip(port="Kiel")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployed(
    module_postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Several]:
    async with several(tmp_path_factory.mktemp("several"), module_postgres_url) as deployed:
        yield deployed


async def answer(client: CommandClient, command: Message) -> CommandReceipt | str:
    """The receipt, or the reason why there is none."""
    try:
        receipt: CommandReceipt = await send(client, command)
    except grpc.aio.AioRpcError as error:
        return reason_of(error)
    return receipt


async def test_two_command_services_race(deployed: Several) -> None:
    one, other = deployed.each

    # On one aggregate: nobody spends what is not there.
    await send(one, of("ada", CreateUser(username="Ada", balance=30)))
    spend = ChangeUserBalance(balance_change=-1)
    answers = await asyncio.gather(
        *(answer(client, of("ada", spend)) for _ in range(30) for client in (one, other))
    )
    spent = [each for each in answers if isinstance(each, CommandReceipt)]
    assert len(spent) == 30
    assert {each.version for each in spent} == set(range(2, 32))
    assert {each for each in answers if isinstance(each, str)} == {"INSUFFICIENT_BALANCE"}

    # Under one command_id: one effect, and one answer.
    ids = [str(uuid4()) for _ in range(40)]
    pairs = await asyncio.gather(
        *(
            asyncio.gather(
                send(one, of(f"ship {n}", REGISTER, command_id=command_id)),
                send(other, of(f"ship {n}", REGISTER, command_id=command_id)),
            )
            for n, command_id in enumerate(ids)
        )
    )
    for receipts in pairs:
        assert sorted(receipt.duplicate for receipt in receipts) == [False, True]
        assert len({(receipt.position, receipt.version) for receipt in receipts}) == 1

    # At an expected version: the loser is told at once.
    [*tries] = await asyncio.gather(
        *(answer(client, of("ship 0", DOCK, expected_version=1)) for client in (one, other))
    )
    assert sorted(str(each) for each in tries if isinstance(each, str)) == ["WRONG_VERSION"]
    refused = await failure(send(one, of("ship 0", DOCK, expected_version=1)))
    assert (refused.code, refused.metadata["actual_version"]) == (StatusCode.ABORTED, "2")

    # And both have, and the query service has, the same log.
    logs = [await WholeLog.of(client) for client in deployed.each]
    assert logs[0].records == logs[1].records
    assert len(logs[0].records) == 31 + 40 + 1
    assert logs[0].checkpoint.digest == logs[1].computed_digest
    await reached(deployed.queries.log, logs[0].checkpoint.position)
    assert (await WholeLog.of(deployed.queries)).records == logs[0].records


async def test_what_one_has_acknowledged_the_other_shows_at_once(deployed: Several) -> None:
    one, other = deployed.each
    for number in range(50):
        receipt = await send(one, of(f"shown {number}", REGISTER))
        request = SubscribeRequest(after_position=receipt.position - 1, stop_at_head=True)
        stream = other.log.Subscribe(request, metadata=OF_EVERY_TENANT, timeout=CALL_S)
        positions = [event.position async for each in stream for event in each.events]
        assert positions == [receipt.position]


async def test_the_other_goes_on_when_one_is_killed(deployed: Several) -> None:
    commands = [of(f"kept {n}", REGISTER, command_id=str(uuid4())) for n in range(200)]
    one, other = deployed.each
    calls = [asyncio.create_task(answer(one, command)) for command in commands]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    await deployed.command.kill()
    answers = await asyncio.gather(*calls)
    acknowledged = {
        each.aggregate_id: each.position for each in answers if isinstance(each, CommandReceipt)
    }

    # Who has no answer asks the other one, whatever became of the first attempt.
    retried = await asyncio.gather(*(send(other, command) for command in commands))

    recorded = {
        event.aggregate_id: event.position
        for event in await history(other.log)
        if event.aggregate_id.startswith("kept")
    }
    assert len(recorded) == 200
    assert {receipt.aggregate_id: receipt.position for receipt in retried} == recorded
    assert acknowledged.items() <= recorded.items()
    assert acknowledged, "none was answered before the kill"

    # The query service has its upstream again once that is there.
    receipt = await send(other, of("eve", CreateUser(username="Eve", balance=1)))
    await deployed.start_command(*log_options(deployed.url))
    caller = Caller(other, deployed.queries, "default")
    caller.position = receipt.position
    assert (await caller.ask(GetUserRequest(user_id="eve"))).user.balance == 1


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("postgresql://ada:secret@127.0.0.1:1/log", 1, ("LOG_UNAVAILABLE",)),
        ("postgresql://", 2, ("no log", "sqlite:PATH")),
        ("postgresql://ada:secret@127.0.0.1:none/log", 2, ("no log",)),
        ("mysql://ada:secret@127.0.0.1/log", 2, ("no log", "postgresql://")),
    ],
)
async def test_a_log_that_cannot_be_had_is_refused_and_its_password_not_said(
    url: str, code: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    keys = ("--keys", "postgresql://ada:secret@127.0.0.1:1/keys")
    process = await ended("command_service", "serve", "--log", url, *keys, folder=tmp_path)

    assert_failed_with_a_sentence(process, code, *words)
    assert "secret" not in process.stderr


async def test_a_server_that_forgets_is_refused_unless_told_so(
    postgres_url: str, tmp_path: Path
) -> None:
    forgetful = f"{postgres_url}&synchronous_commit=off"
    arguments = ("serve", "--listen", "127.0.0.1:0", *log_options(forgetful))

    refused = await ended("command_service", *arguments, folder=tmp_path)
    assert_failed_with_a_sentence(refused, 1, "LOG_NOT_DURABLE", "synchronous_commit=off")

    deployed = Several(tmp_path, forgetful)
    try:
        await deployed.start_command(*log_options(forgetful), "--allow-data-loss")
        assert (await send(deployed.commands, of("ever", REGISTER))).position == 1
        assert "secret" not in (tmp_path / "command.log").read_text(encoding="utf-8")
    finally:
        await deployed.close()
