"""Errors that a test expects."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from tests.services.deployment import fields_of, reason_of


@contextmanager
def refused(
    code: grpc.StatusCode, reason: str, *fields: str
) -> Iterator[pytest.ExceptionInfo[grpc.aio.AioRpcError]]:
    """Expects an error with a reason, which names these fields and no others."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        yield error
    assert error.value.code() is code
    assert reason_of(error.value) == reason
    assert fields_of(error.value) == list(fields)


@contextmanager
def invalid(*fields: str) -> Iterator[None]:
    """Expects INVALID_FIELD, which names these fields."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", *fields):
        yield


@contextmanager
def missing(reason: str) -> Iterator[None]:
    """Expects NOT_FOUND."""
    with refused(grpc.StatusCode.NOT_FOUND, reason):
        yield


@contextmanager
def unavailable(reason: str) -> Iterator[pytest.ExceptionInfo[grpc.aio.AioRpcError]]:
    """Expects UNAVAILABLE."""
    with refused(grpc.StatusCode.UNAVAILABLE, reason) as error:
        yield error
