"""Both services, to be sent anything, and looked at afterwards."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.rpc.status_pb2 import Status
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from shared.client.stubs import Stub
from shared.grpc_services import REFLECTION
from tests.fuzzing.answers import Answer
from tests.fuzzing.cases import Metadata
from tests.fuzzing.contract import BULK, COMMANDS, LIBRARIES
from tests.fuzzing.ledger import Ledger
from tests.services.deployment import Deployment, deployment
from tests.services.health import SERVING, health_of, until_health
from tests.services.histories import WholeLog
from tests.services.subscribing import reached
from tidemark.v1.command_pb2 import CommandReceipt, ExecuteResponse

DEADLINE_S = 10.0
"""Of every call that has nothing to wait for."""

WAIT_S = 0.3
"""Of those that may have, which then wait for nearly as long."""

QUIET_S = 0.05
"""A stream that has answered, and then is silent for so long, goes on."""

AT_ONCE = 32

Outcome = tuple[list[bytes], Any]
"""The responses of a call, and the error that it ended with, if any."""


class Target:
    """See the module's description. Made by `target`."""

    def __init__(self, both: Deployment) -> None:
        self.both = both
        self.channels: dict[str, Any] = {
            "command_service": both.commands.channel,
            "query_service": both.queries.channel,
        }
        self.served: dict[str, set[str]] = {}
        """The full names of what each process serves, as reflection says."""
        self.answers: Counter[grpc.StatusCode] = Counter()
        addresses = {"command_service": both.command.address, "query_service": both.query.address}
        self._blocking = {
            name: grpc.insecure_channel(address) for name, address in addresses.items()
        }
        self._room = asyncio.Semaphore(AT_ONCE)
        self._ledger = Ledger()
        self._lines_read = dict.fromkeys(self.channels, 0)

    async def look(self) -> None:
        """Finds out what is served."""
        for name, channel in self.channels.items():
            stub: Any = Stub(channel, REFLECTION)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for response in stub.ServerReflectionInfo([request], timeout=DEADLINE_S):
                services = response.list_services_response.service
                self.served[name] = {service.name for service in services}
            await until_health(channel, "", SERVING)

    def servers_of(self, method: MethodDescriptor) -> list[str]:
        """The processes that serve an RPC."""
        service = method.containing_service.full_name
        return [name for name, served in self.served.items() if service in served]

    async def call(
        self,
        server: str,
        method: MethodDescriptor,
        *requests: bytes,
        metadata: Metadata = (),
        may_wait: bool = False,
        compression: grpc.Compression = grpc.Compression.NoCompression,
    ) -> Answer:
        """Calls an RPC with bytes. Of a stream that goes on, the beginning is read."""
        options = {
            "metadata": metadata,
            "timeout": WAIT_S if may_wait else DEADLINE_S,
            "compression": compression,
        }
        async with self._room:
            if method.client_streaming:
                responses, error = await asyncio.to_thread(
                    _exchange, self._blocking[server], method, requests, options
                )
            else:
                [request] = requests
                responses, error = await _ask(self.channels[server], method, request, options)
        code = error.code() if error else grpc.StatusCode.OK
        self.answers[code] += 1
        errors = self._note(method, responses)
        if error is None:
            return Answer(code, responses=responses, errors=errors)
        return Answer(code, error.details() or "", rpc_status.from_call(error), responses, errors)

    def _note(self, method: MethodDescriptor, responses: Sequence[bytes]) -> list[Status]:
        """Takes note of receipts, and returns the errors of single commands."""
        if method in COMMANDS:
            self._ledger.note(map(CommandReceipt.FromString, responses))
        if method.full_name != BULK:
            return []
        results = [
            result
            for response in responses
            for result in ExecuteResponse.FromString(response).results
        ]
        self._ledger.note(result.receipt for result in results if result.HasField("receipt"))
        return [result.error for result in results if result.HasField("error")]

    async def settle(self) -> list[str]:
        """What has changed beyond what was answered, in sentences."""
        found = await self._ledger.settle(self.both.commands)
        head = self._ledger.log.checkpoint
        if head.position:
            await reached(self.both.queries.log, head.position)
        copy = await WholeLog.of(self.both.queries)
        if copy.checkpoint.digest != head.digest:
            found.append("the query service's copy is another log")
        for name, channel in self.channels.items():
            for service in ("", *self.served[name] - {each.full_name for each in LIBRARIES}):
                if await health_of(channel, service) != SERVING:
                    found.append(f"{name} does not serve {service or 'at all'}")
            found += [f"{name} says {line}" for line in self._alarms(name)]
        return found

    def _alarms(self, name: str) -> Iterator[str]:
        """What a service has told its operator that it did not foresee."""
        path = self.both.folder / f"{name.partition('_')[0]}.log"
        lines = path.read_text().split("\n")[:-1]
        unread = lines[self._lines_read[name] :]
        self._lines_read[name] = len(lines)
        for line in unread:
            # What gRPC itself says of bytes that it refuses is no JSON.
            level = json.loads(line)["level"] if line.startswith("{") else ""
            if "Traceback" in line or level in {"error", "critical"}:
                yield line

    async def finish(self) -> list[str]:
        """The same, and what is wrong with the log as a whole."""
        return [*await self.settle(), *self._ledger.violations()]

    def close(self) -> None:
        """Closes the channels that are its own."""
        for channel in self._blocking.values():
            channel.close()


async def _ask(
    channel: Any, method: MethodDescriptor, request: bytes, options: Mapping[str, Any]
) -> Outcome:
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = kind(_path(method))(request, **options)
    responses: list[bytes] = []
    try:
        if not method.server_streaming:
            return [await call], None
        response = await call.read()
        while response is not grpc.aio.EOF:
            responses.append(response)
            async with asyncio.timeout(QUIET_S):
                response = await call.read()
    except grpc.aio.AioRpcError as error:
        return responses, error
    except TimeoutError:
        call.cancel()
    return responses, None


def _exchange(
    channel: Any, method: MethodDescriptor, requests: Sequence[bytes], options: Mapping[str, Any]
) -> Outcome:
    """For a thread: with asyncio, gRPC loses the status of a call that ends while it sends."""
    call = channel.stream_stream(_path(method))(iter(requests), **options)
    responses: list[bytes] = []
    try:
        responses.extend(call)
    except grpc.RpcError as error:
        return responses, error
    return responses, None


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


@asynccontextmanager
async def target(folder: Path) -> AsyncIterator[Target]:
    """Both services, for the length of a block; afterwards all has to be well."""
    async with deployment(folder) as both:
        made = Target(both)
        try:
            await made.look()
            yield made
            assert await made.finish() == []
        finally:
            made.close()
