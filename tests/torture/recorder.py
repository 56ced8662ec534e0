"""Clients that write down what they asked, what came back and when."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from shared.aggregates.aggregate import pack
from shared.event_log_service import HEARTBEAT_S
from tests.history.recorded import Call, Delivery, Failure, History, Replayed, Subscription, Unknown
from tests.history.recorded import Watch as WatchRecord
from tests.services.caller import RPC_OF
from tests.services.deployment import (
    SHIP_COMMANDS,
    USER_COMMANDS,
    CommandClient,
    QueryClient,
    tenant,
)
from tidemark.internal.v1.stored_pb2 import StoredSubscribeResponse
from tidemark.v1.command_pb2 import CommandContext, CommandReceipt, ExecuteRequest
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.query_pb2 import ReplayRequest
from tidemark.v1.ship_pb2 import WatchShipRequest

CALL_S = 1.5
"""The longest that a client waits for an answer."""

RETRY_S = 0.1
SILENCE_S = 3 * HEARTBEAT_S
"""After which a subscriber gives a stream up, and its connection."""

MAX_UNANSWERED = 2
"""Calls in a row after which a client gives its connection up, as one without keepalive has to."""

UNDETERMINED = {
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
"""Of a refusal that says nothing of the command: to be tried again."""

COMMAND_RPCS = {
    method.input_type.full_name: (stub, method.name)
    for stub, service in (("ships", SHIP_COMMANDS), ("users", USER_COMMANDS))
    for method in service.methods
}
CODES = {code.value[0]: code for code in grpc.StatusCode}


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
            answer = _of_command(_failure_of(error))
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and within == CALL_S:
                self.commands.unheard()
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
            The commands whose outcome is unknown.
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
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                    broken = str(error)
                else:
                    if response is grpc.aio.EOF:
                        broken = "the stream ended"
                    else:
                        for command, result in zip(batch, response.results, strict=True):
                            self._record(self.name, "command", command, invoked, _answer_in(result))
                        continue
                # What is never sent is never recorded; of this batch nothing is known.
                for command in batch:
                    self._record(self.name, "command", command, invoked, Unknown(broken))
                unknown.extend(batch)
        if not broken:
            await call.done_writing()
        call.cancel()
        return unknown

    async def ask(self, request: Message, within: float = CALL_S) -> Message | Failure | Unknown:
        """Asks the query service once."""
        stub, method = RPC_OF[request.DESCRIPTOR.full_name]
        call = getattr(getattr(self.queries.client, stub), method)(
            request, metadata=self.metadata, timeout=within
        )
        invoked = time.monotonic()
        recorded: Message | Replayed | Failure | Unknown
        try:
            if isinstance(request, ReplayRequest):
                recorded = Replayed(tuple([response async for response in call]))
            else:
                recorded = await call
            self.queries.heard()
        except grpc.aio.AioRpcError as error:
            recorded = _failure_of(error)
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self.queries.unheard()
        self._record(self.name, "query", request, invoked, recorded)
        return Unknown("a replay") if isinstance(recorded, Replayed) else recorded

    def _record(
        self,
        name: str,
        server: str,
        request: Message,
        invoked: float,
        answer: Message | Replayed | Failure | Unknown,
    ) -> None:
        self.history.calls.append(
            Call(name, server, self.tenant_id, request, invoked, time.monotonic(), answer)
        )


class Subscriber:
    """Follows a log across whatever breaks its stream.

    Args:
        subscription: what it wants; it writes there what comes.
        line: to the service that it reads from.
    """

    def __init__(self, subscription: Subscription, line: Line[Any]) -> None:
        self._subscription = subscription
        self._line = line
        self.position = subscription.after_position
        self.last_error = ""
        self.newest: Delivery | None = None
        self._digest = b""

    async def until(self, position: int, patience: int = 1_000_000) -> None:
        """Reads until it has come to a position.

        Args:
            position: of its checkpoint.
            patience: responses after which it drops the stream and comes back.
        """
        while self.position < position:
            try:
                await self._read(position, patience)
            except grpc.aio.AioRpcError as error:
                self.last_error = f"{error.code().name}: {error.details()}"
            except TimeoutError:
                self.last_error = "silence"
                self._line.unheard(limit=1)
            await asyncio.sleep(RETRY_S / 2)

    async def _read(self, position: int, patience: int) -> None:
        request = SubscribeRequest(
            after_position=self.position,
            after_digest=self._digest,
            filter=self._subscription.event_filter,
        )
        metadata = tenant(self._subscription.tenant_id)
        connection: list[Delivery] = []
        self._subscription.connections.append(connection)
        subscribe = self._line.client.channel.unary_stream(
            "/tidemark.v1.EventLogService/Subscribe",
            request_serializer=SubscribeRequest.SerializeToString,
            response_deserializer=StoredSubscribeResponse.FromString,
        )
        stream = subscribe(request, metadata=metadata)
        try:
            while self.position < position and len(connection) < patience:
                async with asyncio.timeout(SILENCE_S):
                    response = await stream.read()
                if not isinstance(response, StoredSubscribeResponse):
                    return
                checkpoint = response.checkpoint
                self.newest = Delivery(
                    time.monotonic(),
                    tuple(response.events),
                    checkpoint.position,
                    checkpoint.digest,
                    checkpoint.head_position,
                )
                connection.append(self.newest)
                self.position = checkpoint.position
                self._digest = checkpoint.digest
        finally:
            stream.cancel()


async def watch(record: WatchRecord, line: Line[QueryClient]) -> None:
    """Watches until cancelled, across whatever breaks the stream."""
    method = record.request.DESCRIPTOR.name.removesuffix("Request")
    seen = 0
    while True:
        request = type(record.request)()
        request.CopyFrom(record.request)
        request.MergeFrom(type(record.request)(min_position=seen))
        connection: list[tuple[float, Message]] = []
        record.connections.append(connection)
        client = line.client
        stub = client.ships if isinstance(request, WatchShipRequest) else client.users
        call = getattr(stub, method)(request, metadata=tenant(record.tenant_id))
        try:
            async for response in _responses(call):
                connection.append((time.monotonic(), response))
                seen = response.position  # type: ignore[attr-defined]  # every answer has one
        except grpc.aio.AioRpcError:
            pass
        except TimeoutError:
            line.unheard(limit=1)
        await asyncio.sleep(RETRY_S)


async def _responses(call: grpc.aio.UnaryStreamCall[Message, Message]) -> AsyncIterator[Message]:
    try:
        while True:
            async with asyncio.timeout(SILENCE_S):
                response = await call.read()
            if not isinstance(response, Message):
                return
            yield response
    finally:
        call.cancel()


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
        return Unknown(f"{failure.code.name}: {failure.reason}")
    return failure


def _failure_of(error: grpc.aio.AioRpcError) -> Failure | Unknown:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both have
    if status is None:
        return Unknown(f"{error.code().name}: {error.details()}")
    return _failure_in(status)


def _failure_in(status: Status) -> Failure | Unknown:
    code = CODES[status.code]
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return Failure(code, info.reason, dict(info.metadata))
    return Unknown(f"{code.name}: {status.message}")
