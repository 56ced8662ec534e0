"""What scenarios need of a command service beside the load: data in it, and where its log ends."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from benchmarks.errors import BenchmarkFailed
from shared.client.stubs import Stub
from tidemark.v1 import command_pb2, event_pb2
from tidemark.v1.command_pb2 import ExecuteRequest
from tidemark.v1.event_pb2 import SubscribeRequest

BULK = command_pb2.DESCRIPTOR.services_by_name["BulkCommandService"]
EVENT_LOG = event_pb2.DESCRIPTOR.services_by_name["EventLogService"]
COMMANDS_PER_REQUEST = 250


async def execute_all(address: str, commands: Iterable[Message], tenant: str = "") -> None:
    """Executes commands in bulk, for a tenant; returns when the events of all are durable.

    Raises:
        BenchmarkFailed: one of them was refused.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = Stub(channel, BULK)
        metadata = (("x-tenant-id", tenant),) if tenant else ()
        requests = in_bulk(commands, COMMANDS_PER_REQUEST)
        async for response in stub.Execute(requests, metadata=metadata):
            for result in response.results:
                if result.HasField("error"):
                    raise BenchmarkFailed(f"A command in bulk was refused: {result.error.message}")


async def head_position(address: str) -> int:
    """The position of the last event in a service's log; positions have no gaps."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = Stub(channel, EVENT_LOG)
        request = SubscribeRequest(from_head=Empty(), stop_at_head=True)
        position = 0
        async for response in stub.Subscribe(request):
            position = response.checkpoint.head_position
        return position


def in_bulk(commands: Iterable[Message], count: int) -> Iterator[ExecuteRequest]:
    """Requests of so many commands each; the last one may have fewer."""
    remaining = iter(commands)
    while batch := [_packed(command) for command in islice(remaining, count)]:
        yield ExecuteRequest(commands=batch)


def _packed(command: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(command)
    return packed
