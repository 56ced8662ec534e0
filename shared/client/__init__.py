"""A client of both services, for Python programs.

    async with Client(Connection(tenant_id="acme")) as client:
        await client.execute(RegisterShip(ship_id="aurora", name="Aurora"))
        response = await client.ask(GetShipRequest(ship_id="aurora"), GetShipResponse)
        async for response in client.subscribe():
            …

Which RPC takes a request, and which service has it, the contract says: a new aggregate needs
nothing here. What a service refuses is raised as what it is: see `shared.errors`.
"""

from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar, cast

import grpc
import uuid_utils
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from shared.client.connection import Connection
from shared.client.errors import error_of
from shared.client.retrying import NOT_NOW, OUTCOME_UNKNOWN, retried
from shared.client.stubs import callable_of, is_command, services
from shared.client.subscription import subscribe
from shared.errors import TidemarkError
from shared.security.tenants import EVERY_TENANT
from shared.telemetry import tracing
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.event_pb2 import SubscribeRequest, SubscribeResponse

TIMEOUT_S = 30.0

Response = TypeVar("Response", bound=Message)


class Client:
    """Sends commands and asks, for one tenant. To be made, and used, within one event loop.

    What it asks includes what it did: where a request leaves min_position open, it is `position`.
    Where the program uses OpenTelemetry, what has one answer is part of its traces.

    Args:
        connection: where the services are.
        timeout_s: for a command or a query that is given no time of its own, retries included.
    """

    def __init__(
        self, connection: Connection | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.connection = connection or Connection()
        self.position = 0
        """That of the last event which its commands caused, as far as their receipts say."""
        self._timeout_s = timeout_s
        self._methods = {
            method.input_type.full_name: method
            for service in services()
            for method in service.methods
        }
        self._commands = self.connection.channel(self.connection.commands)
        self._queries = self.connection.channel(self.connection.queries)
        self._tracer = tracing.of_program()
        self._callables: dict[str, Any] = {}

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; what is still being called fails."""
        await self._commands.close()
        await self._queries.close()

    async def execute(self, command: Message, *, timeout_s: float | None = None) -> CommandReceipt:
        """Executes a command. It has at most one effect, however often it has to be sent.

        Args:
            command: any command; without a command_id it gets one.
            timeout_s: for all attempts together.

        Raises:
            TidemarkError: refused, or it could not be executed in time; in that case it may still
                take effect, and the same command_id finds out.
            TypeError: it is no command.
        """
        method = self._method(command)
        if not is_command(method):
            raise TypeError(f"{command.DESCRIPTOR.full_name} is no command")
        identified: Any = type(command)()
        identified.CopyFrom(command)
        if not identified.context.command_id:
            identified.context.command_id = str(uuid_utils.uuid7())
        receipt: CommandReceipt = await self._call(method, identified, timeout_s, OUTCOME_UNKNOWN)
        self.position = max(self.position, receipt.position)
        return receipt

    async def ask(
        self, request: Message, answer: type[Response], *, timeout_s: float | None = None
    ) -> Response:
        """The answer to a query.

        Args:
            request: of any RPC with one answer.
            answer: the message that it answers with.
            timeout_s: for all attempts together.

        Raises:
            TidemarkError: refused, or not answered in time.
            TypeError: it is no query, or answers with another message.
        """
        method = self._method(request, answer)
        return cast(
            "Response", await self._call(method, self._current(request), timeout_s, NOT_NOW)
        )

    async def stream(
        self, request: Message, answer: type[Response]
    ) -> AsyncGenerator[Response, None]:
        """The answers to a query that has many: a replay, a watch, a rebuild.

        Args:
            request: of any RPC with a stream of answers.
            answer: the message that it answers with.

        Raises:
            TidemarkError: refused, or cut off. To resume is the caller's.
            TypeError: it is no query, or answers with another message.
        """
        rpc = self._callable(self._method(request, answer))
        call = rpc(self._current(request), metadata=self.connection.metadata())
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        finally:
            call.cancel()

    def subscribe(
        self,
        request: SubscribeRequest | None = None,
        *,
        every_tenant: bool = False,
        timeout_s: float | None = None,
        on_interruption: Callable[[TidemarkError], object] = lambda _: None,
    ) -> AsyncGenerator[SubscribeResponse, None]:
        """The log, from where the request says, across whatever cuts the connection.

        Each response has a checkpoint. Who keeps it where the events' effects are kept can go on
        from there another time, without a gap or a repeat: as after_position, and after_digest.

        Args:
            request: where to start, and which events; None: all, from the first.
            every_tenant: read the whole log.
            timeout_s: for the first response; from then on it goes on trying.
            on_interruption: told why whenever the connection is lost.

        Raises:
            TidemarkError: refused, or this is not the log that was read so far.
        """
        return subscribe(
            self.connection,
            EVERY_TENANT if every_tenant else self.connection.tenant_id,
            request or SubscribeRequest(),
            self._timeout_s if timeout_s is None else timeout_s,
            on_interruption,
        )

    async def _call(
        self,
        method: MethodDescriptor,
        request: Message,
        timeout_s: float | None,
        codes: frozenset[grpc.StatusCode],
    ) -> Any:
        rpc = self._callable(method)
        with self._tracer.calling(method) as headers:
            metadata = self.connection.metadata() + headers
            return await retried(
                lambda remaining_s: rpc(request, metadata=metadata, timeout=remaining_s),
                self._timeout_s if timeout_s is None else timeout_s,
                codes,
            )

    def _current(self, request: Any) -> Any:
        """The request, not to be answered from before what this client did."""
        if "min_position" not in request.DESCRIPTOR.fields_by_name or request.min_position:
            return request
        current = type(request)()
        current.CopyFrom(request)
        current.min_position = self.position
        return current

    def _method(self, request: Message, answer: type[Message] | None = None) -> MethodDescriptor:
        method = self._methods.get(request.DESCRIPTOR.full_name)
        if method is None:
            raise TypeError(f"No RPC takes {request.DESCRIPTOR.full_name}")
        answers = method.output_type.full_name
        if answer is not None and answer.DESCRIPTOR.full_name != answers:
            raise TypeError(f"{method.full_name} answers with {answers}")
        return method

    def _callable(self, method: MethodDescriptor) -> Any:
        rpc = self._callables.get(method.full_name)
        if rpc is None:
            channel = self._commands if is_command(method) else self._queries
            rpc = self._callables[method.full_name] = callable_of(channel, method)
        return rpc
