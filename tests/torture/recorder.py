"""Clients that write down what they asked, what came back and when."""

import asyncio
import time
from collections.abc import Sequence
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from shared.aggregates.aggregate import pack
from tests.history.recorded import (
    PASSING,
    Call,
    Failure,
    History,
    Replayed,
    Unknown,
)
from tests.services.caller import RPC_OF
from tests.services.commanding import COMMAND_RPCS, failure_in
from tests.services.deployment import CommandClient, QueryClient, tenant
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt, ExecuteRequest
from tidemark.v1.query_pb2 import ReplayRequest

CALL_S = 1.5
"""The longest that a client waits for an answer."""

RETRY_S = 0.1
MAX_UNANSWERED = 2
"""Calls in a row after which a client gives its connection up, as one without keepalive has to."""

UNDETERMINED = {
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}

Client = TypeVar("Client", bound=CommandClient | QueryClient)


class Line(Generic[Client]):
    """A client's way to one service, through a connection that it replaces when nobody answers."""

    def __init__(self, kind: type[Client], address: str) -> None:
        self._kind = kind
        self._address = address
        self._unanswered = 0
        self._abandoned: list[Client] = []
        self.client = kind(address)

    def heard(self) -> None:
        """Notes an answer."""
        self._unanswered = 0

    def unheard(self, limit: int = MAX_UNANSWERED) -> None:
        """Notes that none came in time."""
        self._unanswered += 1
        if self._unanswered >= limit:
            self._unanswered = 0
            # Others may have calls on it, which have to end in their own time.
            self._abandoned.append(self.client)
            self.client = self._kind(self._address)

    async def close(self) -> None:
        """Closes every connection that it had."""
        for each in (*self._abandoned, self.client):
            await each.channel.close()


class Recorder:
    """One client of one tenant.

    Args:
        history: where it writes.
        name: its own.
        tenant_id: whose calls it makes.
        commands: address of the command service.
        queries: address of the query service.
    """

    def __init__(
        self, history: History, name: str, tenant_id: str, commands: str, queries: str
    ) -> None:
        self.history = history
        self.name = name
        self.tenant_id = tenant_id
        self.commands = Line(CommandClient, commands)
        self.queries = Line(QueryClient, queries)
        self.metadata = tenant(tenant_id)

    async def close(self) -> None:
        """Closes its connections."""
        await self.commands.close()
        await self.queries.close()

    async def command(
        self, command: Message, *, name: str = "", within: float = CALL_S
    ) -> CommandReceipt | Failure | Unknown:
        """Sends a command once."""
        stub, method = COMMAND_RPCS[command.DESCRIPTOR.full_name]
        call = getattr(getattr(self.commands.client, stub), method)
        invoked = time.monotonic()
        answer: CommandReceipt | Failure | Unknown
        try:
            answer = await call(
                command, metadata=self.metadata, timeout=within, wait_for_ready=True
            )
            self.commands.heard()
        except grpc.aio.AioRpcError as error:
            answer = _of_command(failure_of(error))
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                if within == CALL_S:
                    self.commands.unheard()
                else:
                    answer = Unknown("its client did not wait")
        except asyncio.CancelledError:
            self._record(name or self.name, "command", command, invoked, Unknown("cancelled"))
            raise
        self._record(name or self.name, "command", command, invoked, answer)
        return answer

    async def insist(
        self, command: Message, answer: CommandReceipt | Failure | Unknown, until: float
    ) -> CommandReceipt | Failure | Unknown:
        """Repeats a command under its command_id until its outcome is known.

        Args:
            command: has a command_id.
            answer: the first.
            until: by the monotonic clock; then it gives up.
        """
        while not is_final(answer) and time.monotonic() < until:
            await asyncio.sleep(RETRY_S)
            answer = await self.command(command)
        return answer

    async def bulk(self, batches: Sequence[Sequence[Message]]) -> list[Message]:
        """Sends batches over one stream, each after the answer to the one before.

        Returns:
            The commands whose outcome is not known.
        """
        call = self.commands.client.bulk.Execute(metadata=self.metadata, timeout=2 * CALL_S)
        unknown: list[Message] = []
        broken = ""
        for batch in batches:
            invoked = time.monotonic()
            if not broken:
                try:
                    await call.write(ExecuteRequest(commands=[pack(each) for each in batch]))
                    response = await call.read()
                except grpc.aio.AioRpcError as error:
                    broken = _why(failure_of(error))
                except asyncio.InvalidStateError as error:
                    broken = str(error)
                else:
                    if response is grpc.aio.EOF:
                        broken = "the stream ended"
                    else:
                        for command, result in zip(batch, response.results, strict=True):
                            self._record_in_bulk(command, invoked, _answer_in(result))
                        continue
                # What is never sent is never recorded; of this batch nothing is known.
                for command in batch:
                    self._record_in_bulk(command, invoked, Unknown(broken))
                unknown.extend(batch)
        call.cancel()
        return unknown

    async def ask(
        self, request: Message, within: float = CALL_S
    ) -> Message | Replayed | Failure | Unknown:
        """Asks the query service once."""
        stub, method = RPC_OF[request.DESCRIPTOR.full_name]
        call = getattr(getattr(self.queries.client, stub), method)(
            request, metadata=self.metadata, timeout=within
        )
        invoked = time.monotonic()
        answer: Message | Replayed | Failure | Unknown
        try:
            if isinstance(request, ReplayRequest):
                answer = Replayed(tuple([response async for response in call]))
            else:
                answer = await call
            self.queries.heard()
        except grpc.aio.AioRpcError as error:
            answer = failure_of(error)
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self.queries.unheard()
        self._record(self.name, "query", request, invoked, answer)
        return answer

    def _record_in_bulk(
        self, command: Message, invoked: float, answer: CommandReceipt | Failure | Unknown
    ) -> None:
        self._record(self.name, "command", command, invoked, answer, is_bulk=True)

    def _record(
        self,
        name: str,
        server: str,
        request: Message,
        invoked: float,
        answer: Message | Replayed | Failure | Unknown,
        *,
        is_bulk: bool = False,
    ) -> None:
        ended = time.monotonic()
        self.history.calls.append(
            Call(name, server, self.tenant_id, request, invoked, ended, answer, is_bulk)
        )


def is_final(answer: object) -> bool:
    """Whether an answer tells what became of a command, so that nobody needs to ask again."""
    return isinstance(answer, CommandReceipt) or (
        isinstance(answer, Failure) and answer.code not in PASSING
    )


def command_id_of(command: Message) -> str:
    """The one that the client gave; empty: none."""
    context: CommandContext = command.context  # type: ignore[attr-defined]  # every command has it
    return context.command_id


def _answer_in(result: object) -> CommandReceipt | Failure | Unknown:
    if result.HasField("receipt"):  # type: ignore[attr-defined]  # a CommandResult
        receipt: CommandReceipt = result.receipt  # type: ignore[attr-defined]  # the same
        return receipt
    return _of_command(_failure_in(result.error))  # type: ignore[attr-defined]  # the same


def _of_command(failure: Failure | Unknown) -> Failure | Unknown:
    if isinstance(failure, Failure) and failure.code in UNDETERMINED:
        return Unknown(_why(failure))
    return failure


def _why(failure: Failure | Unknown) -> str:
    if isinstance(failure, Unknown):
        return failure.why
    return f"{failure.code.name}: {failure.reason}"


def failure_of(error: grpc.aio.AioRpcError) -> Failure | Unknown:
    """What a call failed with."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both have
    if status is None:
        return Unknown(f"{error.code().name}: {error.details()}")
    return _failure_in(status)


def _failure_in(status: Status) -> Failure:
    failure = failure_in(status)
    return Failure(failure.code, failure.reason, failure.metadata)
