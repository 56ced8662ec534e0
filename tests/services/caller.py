"""Somebody of one tenant who gives commands and asks."""

from typing import Any

from google.protobuf.message import Message

from shared.aggregates.aggregate import pack
from shared.security.tenants import EVERY_TENANT
from tests.services.deployment import (
    PROJECTIONS,
    REPLAY,
    SHIP_QUERIES,
    USER_QUERIES,
    CommandClient,
    QueryClient,
    tenant,
)
from tests.services.readable import keys_of, readable
from tidemark.v1.command_pb2 import CommandReceipt, ExecuteRequest
from tidemark.v1.event_pb2 import EventFilter, RecordedEvent, SubscribeRequest

DEADLINE_S = 10.0
"""Of every call that a test says nothing else about."""

BULK_DEADLINE_S = 30.0
COMMANDS_PER_REQUEST = 500

QUERY_SERVICES = {
    "ships": SHIP_QUERIES,
    "users": USER_QUERIES,
    "replay": REPLAY,
    "projections": PROJECTIONS,
}
RPC_OF = {
    method.input_type.full_name: (client, method.name)
    for client, service in QUERY_SERVICES.items()
    for method in service.methods
}
OF_EVERY_TENANT = tenant(EVERY_TENANT)


class Caller:
    """Calls both services for one tenant. Every call has a deadline.

    What it asks waits for what it did: a min_position that a request leaves open is that of its
    last command.
    """

    def __init__(self, commands: CommandClient, queries: QueryClient, tenant_id: str) -> None:
        self.commands = commands
        self.queries = queries
        self.tenant_id = tenant_id
        self.metadata = tenant(tenant_id)
        self.position = 0

    async def do(self, *commands: Message) -> list[CommandReceipt]:
        """Executes commands, none of which may be refused."""
        packed = [pack(command) for command in commands]
        requests = [
            ExecuteRequest(commands=packed[start : start + COMMANDS_PER_REQUEST])
            for start in range(0, len(packed), COMMANDS_PER_REQUEST)
        ]
        responses = self.commands.bulk.Execute(
            requests, metadata=self.metadata, timeout=BULK_DEADLINE_S, wait_for_ready=True
        )
        results = [result async for response in responses for result in response.results]
        assert [result.error.message for result in results if result.HasField("error")] == []
        assert len(results) == len(commands)
        receipts = [result.receipt for result in results]
        self.position = max([self.position, *(receipt.position for receipt in receipts)])
        return receipts

    async def ask(self, request: Message, deadline_s: float = DEADLINE_S) -> Any:
        """The answer of the RPC whose request this is."""
        return await self._call(request, deadline_s)

    def stream(self, request: Message, deadline_s: float = DEADLINE_S) -> Any:
        """The stream of the RPC whose request this is."""
        return self._call(request, deadline_s)

    async def all(self, request: Message, deadline_s: float = DEADLINE_S) -> list[Any]:
        """Everything on a stream that ends by itself."""
        return [response async for response in self.stream(request, deadline_s)]

    async def events(self, aggregate_id: str = "") -> list[RecordedEvent]:
        """The tenant's events, or those of one aggregate, as Replay shows them."""
        request = SubscribeRequest(stop_at_head=True)
        if aggregate_id:
            request.filter.CopyFrom(EventFilter(aggregate_ids=[aggregate_id]))
        stream = self.commands.log.Subscribe(request, metadata=self.metadata, timeout=DEADLINE_S)
        events = [event async for response in stream for event in response.events]
        keys = await keys_of(self.commands, events)
        return [readable(event, keys) for event in events]

    def _call(self, request: Any, deadline_s: float) -> Any:
        names = request.DESCRIPTOR.fields_by_name
        if "min_position" in names and request.min_position == 0:
            request = but(request, min_position=self.position)
        client, name = RPC_OF[request.DESCRIPTOR.full_name]
        rpc = getattr(getattr(self.queries, client), name)
        return rpc(request, metadata=self.metadata, timeout=deadline_s, wait_for_ready=True)


def but(request: Any, **fields: Any) -> Any:
    """A request with other values in some fields."""
    changed = type(request)()
    changed.CopyFrom(request)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
