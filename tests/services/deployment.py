"""Two services of a test's own, and clients of them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from examples.dev_credentials import make, server_options, upstream_options
from examples.services import Service, start_command_service, start_query_service
from shared.client.errors import error_of
from shared.errors import InvalidFields
from tests.services.access import OPEN, Access, Options, anybody
from tidemark.v1 import command_pb2, event_pb2, personal_pb2, query_pb2, ship_pb2, user_pb2

SHIP_COMMANDS = ship_pb2.DESCRIPTOR.services_by_name["ShipCommandService"]
SHIP_QUERIES = ship_pb2.DESCRIPTOR.services_by_name["ShipQueryService"]
USER_COMMANDS = user_pb2.DESCRIPTOR.services_by_name["UserCommandService"]
USER_QUERIES = user_pb2.DESCRIPTOR.services_by_name["UserQueryService"]
BULK = command_pb2.DESCRIPTOR.services_by_name["BulkCommandService"]
EVENT_LOG = event_pb2.DESCRIPTOR.services_by_name["EventLogService"]
REPLAY = query_pb2.DESCRIPTOR.services_by_name["ReplayService"]
KEYS = personal_pb2.DESCRIPTOR.services_by_name["KeyService"]
PROJECTIONS = query_pb2.DESCRIPTOR.services_by_name["ProjectionService"]

IS_SECURE = "TEST_SECURE" in os.environ
"""Whether the services ask everybody who they are: see `make test-secure`."""


def _taking_turns(address: str) -> Options:
    """What a channel to several addresses needs."""
    if "," not in address:
        return ()
    return (("grpc.lb_policy_name", "round_robin"),)


class CommandClient:
    """Everything that a command service serves.

    Args:
        address: HOST:PORT; or several, as gRPC writes them: then they take turns with the calls.
    """

    def __init__(self, address: str, access: Access = OPEN) -> None:
        self.access = access
        self.channel = access.channel(address, _taking_turns(address))
        self.ships: Any = access.stub(self.channel, SHIP_COMMANDS)
        self.users: Any = access.stub(self.channel, USER_COMMANDS)
        self.bulk: Any = access.stub(self.channel, BULK)
        self.log: Any = access.stub(self.channel, EVENT_LOG)
        self.keys: Any = access.stub(self.channel, KEYS)


class QueryClient:
    """Everything that a query service serves.

    Args:
        address: as of a `CommandClient`.
    """

    def __init__(self, address: str, access: Access = OPEN) -> None:
        self.access = access
        self.channel = access.channel(address, _taking_turns(address))
        self.ships: Any = access.stub(self.channel, SHIP_QUERIES)
        self.users: Any = access.stub(self.channel, USER_QUERIES)
        self.replay: Any = access.stub(self.channel, REPLAY)
        self.projections: Any = access.stub(self.channel, PROJECTIONS)
        self.log: Any = access.stub(self.channel, EVENT_LOG)
        self.keys: Any = access.stub(self.channel, KEYS)


class Deployment:
    """A command service and query services that follow it. Made by `deployment`.

    Everything is in `folder`, so a service that is stopped can be started again on its own data,
    on its own port.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.access = OPEN
        self._server_options: list[str] = []
        self._upstream_options: list[str] = []
        if IS_SECURE:
            credentials = folder / "credentials"
            make(credentials)
            self.access = anybody(credentials)
            # All of a test's clients are one caller.
            more = ["--max-streams-per-caller", "2000", "--max-calls-per-caller", "16384"]
            self._server_options = [*server_options(credentials), *more]
            self._upstream_options = upstream_options(credentials)
        self.command: Service
        self.query: Service
        self.commands: CommandClient
        self.queries: QueryClient

    async def start_command(self, *options: str) -> None:
        """Starts the command service, again if it was stopped, where it was."""
        previous = getattr(self, "command", None)
        listen = previous.address if previous else "127.0.0.1:0"
        log = self.folder / "command.log"
        options = (*self._server_options, *options)
        self.command = await start_command_service(self.folder, listen, *options, log=log)
        if previous is None:
            self.commands = CommandClient(self.command.address, self.access)

    async def start_query(self, *options: str, module: str = "query_service") -> None:
        """Starts the query service, again if it was stopped, where it was."""
        previous = getattr(self, "query", None)
        listen = previous.address if previous else "127.0.0.1:0"
        log = self.folder / "query.log"
        options = (*self._server_options, *self._upstream_options, *options)
        self.query = await start_query_service(
            self.folder, self.command.address, listen, *options, module=module, log=log
        )
        if previous is None:
            self.queries = QueryClient(self.query.address, self.access)

    async def close(self) -> None:
        """Closes the clients and stops what runs, the query service first."""
        for name in ("queries", "commands"):
            if hasattr(self, name):
                await getattr(self, name).channel.close()
        for name in ("query", "command"):
            if hasattr(self, name):
                await getattr(self, name).stop()


@asynccontextmanager
async def deployment(folder: Path) -> AsyncIterator[Deployment]:
    """Both services, running."""
    both = Deployment(folder)
    try:
        await both.start_command()
        await both.start_query()
        yield both
    finally:
        await both.close()


def tenant(tenant_id: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call for a tenant."""
    return (("x-tenant-id", tenant_id),)


def details_of(error: grpc.aio.AioRpcError) -> list[Message]:
    """The details of a rich error."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both have
    known = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.PreconditionFailure,
        error_details_pb2.RetryInfo,
    )
    found: list[Message] = []
    for packed in status.details if status else ():
        for detail_type in known:
            detail = detail_type()
            if packed.Unpack(detail):
                found.append(detail)
    return found


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in an error."""
    return error_of(error).reason


def metadata_of(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """What an error says beside its reason."""
    return error_of(error).metadata


def fields_of(error: grpc.aio.AioRpcError) -> list[str]:
    """The fields that an error names."""
    failure = error_of(error)
    violations = failure.violations if isinstance(failure, InvalidFields) else ()
    return [violation.field for violation in violations]
