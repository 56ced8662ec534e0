"""Metrics over HTTP, for Prometheus: in a thread of its own, one request at a time."""

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client import (
    CollectorRegistry,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_client.registry import Collector

from shared.security.listening import is_loopback
from shared.security.misconfigured import Misconfigured

LOOK_S = 5.0
"""How long the event loop may take to tell what the gauges are."""

SILENCE_S = 5.0
"""After which a client that says nothing is let go."""

Look = Callable[[], Awaitable[None]]
"""Sets the gauges. It runs in the event loop."""

logger = structlog.get_logger(__name__)


@asynccontextmanager
async def exposing(
    listen: str | None, metrics: Iterable[Collector], look: Look, *, insecure: bool
) -> AsyncIterator[None]:
    """Exposes metrics for the length of a block.

    Args:
        listen: HOST:PORT; port 0 is a free one; None: nowhere.
        metrics: which.
        look: called before each answer.
        insecure: listen on an address that other machines can reach. It is plain HTTP.

    Raises:
        OSError: the address cannot be had.
        Misconfigured: it needs `insecure`.
    """
    if listen is None:
        yield
        return
    if not insecure and not is_loopback(listen):
        raise Misconfigured(
            f"{listen} can be reached from other machines, and metrics are plain HTTP: listen on"
            " 127.0.0.1, or say --insecure if the network is trusted"
        )
    server = _Server(listen, _Application(metrics, look))
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics")
    thread.start()
    logger.info("metrics_exposed", url=f"http://{server.address}/metrics")
    try:
        yield
    finally:
        # In a thread, because a request that is being answered may need the event loop.
        await asyncio.to_thread(server.shutdown)
        thread.join()
        server.server_close()


class _Application:
    """Looks, then answers with what there is to see."""

    def __init__(self, metrics: Iterable[Collector], look: Look) -> None:
        # When each series began says nothing here, and would be a third of them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it takes nothing
        registry = CollectorRegistry()
        for metric in metrics:
            registry.register(metric)
        ProcessCollector(registry=registry)
        self._answer = make_wsgi_app(registry)
        self._look = look
        self._loop = asyncio.get_running_loop()

    def __call__(self, environment: Any, start_response: Any) -> Any:
        looking = asyncio.run_coroutine_threadsafe(self._looked(), self._loop)
        try:
            looking.result(LOOK_S)
        except Exception:
            looking.cancel()
            logger.exception("metrics_unknown")
            # Rather than what was true once: whoever asks sees that nothing is known.
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"The service does not say how it is; its log says why.\n"]
        return self._answer(environment, start_response)

    async def _looked(self) -> None:
        await self._look()


class _Server(WSGIServer):
    """Listens, and says nothing on standard error by itself."""

    def __init__(self, listen: str, application: Any) -> None:
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, int(port)), _Handler)
        except (OSError, OverflowError, ValueError) as error:
            raise OSError(f"Cannot show metrics on {listen}: {error}") from error
        self.address = f"{listen.rpartition(':')[0]}:{self.server_port}"
        self.set_app(application)

    def server_bind(self) -> None:
        """Binds without asking DNS for a name of the host, which can take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # of bytes only for other families
        self.setup_environ()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """A client that hung up, or said nothing."""
        logger.info("metrics_request_failed", error=repr(sys.exception()))


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_S

    def log_message(self, *_: Any) -> None:
        """Not a line for each request."""
