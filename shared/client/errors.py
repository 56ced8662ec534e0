"""From the status of a call to the error that the service raised: the classes are the same.

`shared.errors` has those that Tidemark answers with; here are the others that gRPC knows.
"""

from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from shared.errors import (
    AlreadyExists,
    Conflict,
    DataLoss,
    Exhausted,
    FieldViolation,
    Internal,
    InvalidArgument,
    InvalidFields,
    NotFound,
    OutOfRange,
    Refused,
    TidemarkError,
    Unavailable,
)


class Unauthenticated(TidemarkError):
    """The credentials are missing or bad."""

    code = code_pb2.UNAUTHENTICATED


class PermissionDenied(TidemarkError):
    """The credentials are good, but not for this."""

    code = code_pb2.PERMISSION_DENIED


class DeadlineExceeded(TidemarkError):
    """The time was over; a command may still take effect, and its command_id finds out."""

    code = code_pb2.DEADLINE_EXCEEDED
    is_verdict = False


class Cancelled(TidemarkError):
    """The call was cancelled; a command may still take effect, and its command_id finds out."""

    code = code_pb2.CANCELLED
    is_verdict = False


class Unimplemented(TidemarkError):
    """The service has no such RPC."""

    code = code_pb2.UNIMPLEMENTED


class Unknown(TidemarkError):
    """Something that gRPC, or what is between, cannot say more about."""

    code = code_pb2.UNKNOWN
    is_verdict = False


_CLASSES: dict[int, type[TidemarkError]] = {
    each.code: each
    for each in (
        AlreadyExists, Cancelled, Conflict, DataLoss, DeadlineExceeded, Exhausted, InvalidArgument,
        NotFound, OutOfRange, PermissionDenied, Refused, Unauthenticated, Unavailable,
        Unimplemented,
    )
}  # fmt: skip


def error_of(error: grpc.aio.AioRpcError) -> TidemarkError:
    """The error that a call ended with.

    Its `retry_after` is set if the service said so. One that came from gRPC, not from a service,
    has the name of its code for a reason.
    """
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both have
    if status is None:
        number = error.code().value[0]
        status = Status(code=number, message=error.details() or "")
    return error_in(status)


def error_in(status: Status) -> TidemarkError:
    """The same from a status, such as bulk commands have among their results."""
    info = _detail(status, error_details_pb2.ErrorInfo)
    request = _detail(status, error_details_pb2.BadRequest)
    retry = _detail(status, error_details_pb2.RetryInfo)
    error: TidemarkError
    if request is not None:
        violations = [FieldViolation(*_pair(each)) for each in request.field_violations]
        error = InvalidFields(*violations)
    elif status.code == code_pb2.INTERNAL:
        error = Internal()
    else:
        error = _CLASSES.get(status.code, Unknown)("", "")
    error.reason = info.reason if info else code_pb2.Code.Name(status.code)
    error.message = status.message
    error.metadata = dict(info.metadata) if info else {}
    error.retry_after = retry.retry_delay.ToMilliseconds() / 1000 if retry else None
    return error


def _pair(violation: Any) -> tuple[str, str]:
    return violation.field, violation.description


def _detail(status: Status, detail_type: type[Message]) -> Any:
    for packed in status.details:
        detail = detail_type()
        if packed.Unpack(detail):
            return detail
    return None
