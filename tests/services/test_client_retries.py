"""Which failures the Python client tries again after, and when."""

import time

import pytest
from google.rpc import code_pb2

from shared.client import Client
from shared.client.connection import Connection
from shared.client.errors import DeadlineExceeded, Unimplemented
from shared.errors import (
    Conflict,
    DataLoss,
    InvalidArgument,
    TidemarkError,
)
from tests.services.answers import Answers, answer, answering
from tests.services.clients import SOON_S, failure
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.user_pb2 import ChangeUserBalance


async def answered(answers: Answers, timeout_s: float = SOON_S) -> CommandReceipt:
    """What a client gets from such a server."""
    async with answering(answers) as address, Client(Connection(address)) as client:
        return await client.execute(ChangeUserBalance(user_id="u"), timeout_s=timeout_s)


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
