"""Which failures the Python client tries again after, and when."""

import time

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from shared.client import Client
from shared.client.connection import Connection
from shared.client.errors import DeadlineExceeded, Unimplemented
from shared.errors import (
    Conflict,
    DataLoss,
    InvalidArgument,
    TidemarkError,
)
from tests.services.clients import SOON_S, failure
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.user_pb2 import ChangeUserBalance


class Answers:
    """A server that answers every call with the next of these statuses, and then with a receipt."""

    def __init__(self, *statuses: status_pb2.Status) -> None:
        self._statuses = list(statuses)
        self.command_ids: list[str] = []
        self.called_at: list[float] = []

    async def change_balance(
        self, command: ChangeUserBalance, context: grpc.aio.ServicerContext[object, object]
    ) -> CommandReceipt:
        self.called_at.append(time.monotonic())
        self.command_ids.append(command.context.command_id)
        if self._statuses:
            await context.abort_with_status(rpc_status.to_status(self._statuses.pop(0)))
        return CommandReceipt(version=7)


async def answered(answers: Answers, timeout_s: float = SOON_S) -> CommandReceipt:
    """What a client gets from such a server."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        answers.change_balance,
        request_deserializer=ChangeUserBalance.FromString,
        response_serializer=CommandReceipt.SerializeToString,
    )
    handlers = {"ChangeBalance": handler}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tidemark.v1.UserCommandService", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Client(Connection(f"127.0.0.1:{port}")) as client:
            return await client.execute(ChangeUserBalance(user_id="u"), timeout_s=timeout_s)
    finally:
        await server.stop(None)


def answer(code: code_pb2.Code, retry_after_s: float = 0) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message="not now")
    if retry_after_s:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(retry_after_s * 1000))
        status.details.add().Pack(retry)
    return status


@pytest.mark.parametrize(
    "code", [code_pb2.UNAVAILABLE, code_pb2.UNKNOWN, code_pb2.INTERNAL, code_pb2.CANCELLED]
)
async def test_an_outcome_that_is_not_known_is_asked_for_under_the_same_id(
    code: code_pb2.Code,
) -> None:
    answers = Answers(answer(code), answer(code))

    assert (await answered(answers)).version == 7
    assert len(answers.command_ids) == 3
    assert len(set(answers.command_ids)) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (code_pb2.ABORTED, Conflict),
        (code_pb2.RESOURCE_EXHAUSTED, TidemarkError),
        (code_pb2.DATA_LOSS, DataLoss),
        (code_pb2.INVALID_ARGUMENT, InvalidArgument),
        (code_pb2.UNIMPLEMENTED, Unimplemented),
        (code_pb2.DEADLINE_EXCEEDED, DeadlineExceeded),
    ],
)
async def test_what_another_attempt_cannot_help_is_tried_once(
    code: code_pb2.Code, kind: type[TidemarkError]
) -> None:
    answers = Answers(answer(code))

    error = await failure(answered(answers))

    assert isinstance(error, kind)
    assert (error.reason, error.message) == (code_pb2.Code.Name(code), "not now")
    assert len(answers.command_ids) == 1


async def test_the_service_says_how_long_to_wait() -> None:
    answers = Answers(answer(code_pb2.UNAVAILABLE, retry_after_s=0.4))

    await answered(answers)

    first, second = answers.called_at
    assert second - first >= 0.4


async def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    answers = Answers(answer(code_pb2.UNAVAILABLE, retry_after_s=60))
    began = time.monotonic()

    error = await failure(answered(answers, timeout_s=5))

    assert error.retry_after == 60
    assert time.monotonic() - began < 5
    assert len(answers.command_ids) == 1
