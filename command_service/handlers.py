"""The RPCs of every aggregate's command service: one function answers them all."""

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from structlog.contextvars import bind_contextvars

from command_service.command import CommandTypes
from command_service.executor import Executor
from shared.call import Call
from shared.errors import TidemarkError
from tidemark.v1.command_pb2 import CommandReceipt


class Commands:
    """Has the executor execute what an RPC takes."""

    def __init__(self, types: CommandTypes, executor: Executor) -> None:
        self._types = types
        self._executor = executor

    def method_of(
        self, _method: MethodDescriptor
    ) -> Callable[[Message, Call], Awaitable[CommandReceipt]]:
        """The function that answers the RPC: the request is the command."""
        return self._execute

    async def _execute(self, message: Any, call: Call) -> CommandReceipt:
        command = self._types.read(message, call.tenant_id, call.actor)
        try:
            return await self._executor.execute(command)
        except TidemarkError:
            # For whatever is logged of this call, which has a task, and so a context, of its own.
            bind_contextvars(correlation_id=command.correlation_id)
            raise
