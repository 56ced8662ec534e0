"""One call, as whoever answers it sees it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from shared.drain import Drain
from shared.errors import invalid_field
from shared.security.identity import Identity
from shared.security.tenants import (
    DEFAULT_TENANT,
    EVERY_TENANT,
    TENANT_HEADER,
    Headers,
    named_tenant,
)

ServicerContext = grpc.aio.ServicerContext[bytes, bytes]


class Call:
    """One call: who makes it, how long it may take, and where its responses go."""

    def __init__(self, context: ServicerContext, drain: Drain) -> None:
        self.context = context
        self.drain = drain
        self.identity: Identity | None = None
        """Who makes it; None: nobody was asked."""
        self.has_expired = False
        """Whether it was ended because the caller's credentials did."""
        self._headers: asyncio.Future[None] | None = None

    @property
    def headers(self) -> Headers:
        """What came with it."""
        return self.context.invocation_metadata() or ()

    @property
    def actor(self) -> str:
        """Who makes it, as events say; empty: nobody was asked."""
        return "" if self.identity is None else self.identity.subject

    @property
    def tenant_id(self) -> str:
        """The tenant whose data the call is about.

        Raises:
            InvalidFields: the header is no tenant's id, asks for every tenant, or is missing where
                there are several to choose from.
            PermissionDenied: TENANT_FORBIDDEN.
        """
        tenant_id = self._tenant()
        if tenant_id == EVERY_TENANT:
            raise invalid_field(TENANT_HEADER, "every tenant is for Subscribe alone")
        return tenant_id

    @property
    def tenant_id_or_every(self) -> str | None:
        """The same, or None for every tenant.

        Raises:
            InvalidFields: the header is no tenant's id, or is missing where there are several to
                choose from.
            PermissionDenied: TENANT_FORBIDDEN.
        """
        tenant_id = self._tenant()
        return None if tenant_id == EVERY_TENANT else tenant_id

    @property
    def time_remaining(self) -> float | None:
        """Seconds to the caller's deadline; None: it has none."""
        return self.context.time_remaining()

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has given up."""
        return self.context.cancelled()

    @contextmanager
    def ending(self, task: asyncio.Task[Any]) -> Iterator[None]:
        """Has the task cancelled when the caller's credentials end."""
        if self.identity is None or self.identity.expires_at == inf:
            yield
            return

        def end() -> None:
            self.has_expired = True
            task.cancel()

        left = max(self.identity.expires_at - time.time(), 0.0)
        timer = asyncio.get_running_loop().call_later(left, end)
        try:
            yield
        finally:
            timer.cancel()

    async def send(self, response: Message) -> None:
        """Sends one response of a stream; returns when the peer can take more."""
        if self._headers is None:
            self._headers = asyncio.ensure_future(self.context.send_initial_metadata(()))
            # If the caller hangs up now, nobody waits for them any more.
            self._headers.add_done_callback(_look_at)
            await asyncio.shield(self._headers)
        await self.context.write(response.SerializeToString())

    async def end(self, status: status_pb2.Status) -> None:
        """Ends the call with an error."""
        # Headers that went with the first response would be sent again if that was interrupted,
        # which gRPC refuses, and the caller would never see the status.
        if self._headers is not None:
            await self._headers
        await self.context.abort_with_status(rpc_status.to_status(status))

    def _tenant(self) -> str:
        named = named_tenant(self.headers)
        if named is not None:
            return named
        return DEFAULT_TENANT if self.identity is None else self.identity.only_tenant()


def _look_at(future: asyncio.Future[None]) -> None:
    """Keeps asyncio from calling a failure forgotten."""
    if not future.cancelled():
        future.exception()
