"""Sending commands, and what comes back, all of it."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from tests.services.deployment import SHIP_COMMANDS, USER_COMMANDS, CommandClient, tenant
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt

CALL_S = 15.0
"""The longest that any one call may take."""

AnyCommand = TypeVar("AnyCommand", bound=Message)

COMMAND_RPCS = {
    method.input_type.full_name: (stub, method.name)
    for stub, service in (("ships", SHIP_COMMANDS), ("users", USER_COMMANDS))
    for method in service.methods
}
"""The stub and the method that take a command."""


def of(aggregate_id: str, command: AnyCommand, **context: Any) -> AnyCommand:
    """The command for an aggregate, under a context."""
    id_field = command.DESCRIPTOR.fields[0].name
    complete = type(command)(**{id_field: aggregate_id})
    complete.MergeFrom(command)
    if context:
        complete.MergeFrom(type(command)(context=CommandContext(**context)))
    return complete


def send(
    client: CommandClient,
    command: Message,
    tenant_id: str = "default",
    *,
    wait_for_ready: bool | None = None,
) -> Any:
    """Calls the RPC that takes the command; to be awaited for its receipt."""
    stub, method = COMMAND_RPCS[command.DESCRIPTOR.full_name]
    call = getattr(getattr(client, stub), method)
    return call(command, timeout=CALL_S, metadata=tenant(tenant_id), wait_for_ready=wait_for_ready)


async def send_all(
    client: CommandClient, aggregate_id: str, *commands: Message, tenant_id: str = "default"
) -> list[CommandReceipt]:
    """One command after the other, all for one aggregate."""
    return [await send(client, of(aggregate_id, command), tenant_id) for command in commands]


@dataclass(frozen=True)
class Failure:
    """An error as its receiver sees it."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    fields: list[str]
    preconditions: list[tuple[str, str, str]]
    """Type, subject and description."""
    retry_after: float | None


def failure_in(status: Status) -> Failure:
    """A rich status, which has exactly one ErrorInfo."""
    infos = _unpacked(status, error_details_pb2.ErrorInfo)
    [info] = infos
    requests = _unpacked(status, error_details_pb2.BadRequest)
    refusals = _unpacked(status, error_details_pb2.PreconditionFailure)
    retries = _unpacked(status, error_details_pb2.RetryInfo)
    known = [*infos, *requests, *refusals, *retries]
    assert len(known) == len(status.details), "a detail of a kind that no client is told of"
    return Failure(
        code=code_of(status.code),
        message=status.message,
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        fields=[each.field for request in requests for each in request.field_violations],
        preconditions=[
            (each.type, each.subject, each.description)
            for refusal in refusals
            for each in refusal.violations
        ],
        retry_after=retries[0].retry_delay.ToMilliseconds() / 1000 if retries else None,
    )


def failure_of(error: grpc.RpcError) -> Failure:
    """What a call failed with, which has to be one of the service's own errors."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both have
    assert status is not None, f"not a rich error: {error.code()} {error.details()}"
    return failure_in(status)


async def rpc_error(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async with asyncio.timeout(CALL_S):
            await call
    return raised.value


async def failure(call: Awaitable[object]) -> Failure:
    """The same, with its details."""
    return failure_of(await rpc_error(call))


def _unpacked(status: Status, detail_type: type[Message]) -> list[Any]:
    found = []
    for wrapped in status.details:
        detail = detail_type()
        if wrapped.Unpack(detail):
            found.append(detail)
    return found


def code_of(number: int) -> grpc.StatusCode:
    """The status code of that number."""
    [code] = [code for code in grpc.StatusCode if code.value[0] == number]
    return code
