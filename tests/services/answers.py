"""A command service of the test's own, whose answers are known beforehand."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

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


def answer(code: code_pb2.Code, retry_after_s: float = 0) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message="not now")
    if retry_after_s:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(retry_after_s * 1000))
        status.details.add().Pack(retry)
    return status


@asynccontextmanager
async def answering(answers: Answers) -> AsyncIterator[str]:
    """The address of a server that answers so."""
    handler = grpc.unary_unary_rpc_method_handler(
        answers.change_balance,
        request_deserializer=ChangeUserBalance.FromString,
        response_serializer=CommandReceipt.SerializeToString,
    )
    async with standing_in("tidemark.v1.UserCommandService", "ChangeBalance", handler) as address:
        yield address


@asynccontextmanager
async def standing_in(service: str, rpc: str, handler: Any) -> AsyncIterator[str]:
    """The address of a server that has this one RPC."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {rpc: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
