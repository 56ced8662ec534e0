"""Somebody who subscribes, is cut off, and goes on where it was."""

import asyncio

import grpc

from shared.following import METHOD
from shared.security.tenants import EVERY_TENANT, TENANT_HEADER
from tests.history.timeline import Timeline
from tests.model.wire import Channel, Server
from tidemark.internal.v1.stored_pb2 import StoredSubscribeResponse
from tidemark.v1.event_pb2 import EventFilter, SubscribeRequest


class Subscriber:
    """See the module's description.

    Args:
        server: gives the present life of the service that it reads from.
        tenant_id: whose events; `*`: everybody's.
        kinds: of aggregates; none: all.
    """

    def __init__(self, server: Server, tenant_id: str, kinds: frozenset[str]) -> None:
        self.position = 0
        """Of its last checkpoint."""
        self._server = server
        self._tenant_id = tenant_id
        self._kinds = kinds
        self._records: list[bytes] = []
        self._reading: asyncio.Task[None] | None = None

    @property
    def is_cut_off(self) -> bool:
        """Whether it could go on."""
        return self._reading is None or self._reading.done()

    def go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Subscribes, after what it has."""
        self.raise_if_failed()
        self._reading = loop.create_task(self._read())

    def hang_up(self) -> None:
        """Leaves the stream, wherever it is."""
        if self._reading is not None:
            self._reading.cancel()

    def raise_if_failed(self) -> None:
        """Raises what it was told, unless that is to try again."""
        if self.is_cut_off and self._reading is not None and not self._reading.cancelled():
            self._reading.result()

    def check(self, timeline: Timeline) -> None:
        """It has each event that it asked for, once and in order."""
        self.raise_if_failed()
        expected = [
            record
            for record, event in zip(timeline.records, timeline.events, strict=True)
            if event.position <= self.position
            and self._tenant_id in {EVERY_TENANT, event.tenant_id}
            and (not self._kinds or event.aggregate_type in self._kinds)
        ]
        assert self._records == expected, f"Not the log up to {self.position}: {self._records}"

    async def _read(self) -> None:
        subscribe = Channel(self._server).unary_stream(
            METHOD, response_deserializer=StoredSubscribeResponse.FromString
        )
        request = SubscribeRequest(
            after_position=self.position, filter=EventFilter(aggregate_types=sorted(self._kinds))
        )
        stream = subscribe(request, metadata=((TENANT_HEADER, self._tenant_id),))
        try:
            while isinstance(response := await stream.read(), StoredSubscribeResponse):
                self._records += response.events
                self.position = response.checkpoint.position
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        finally:
            stream.cancel()
