"""A gRPC server as both services run it: where it listens, what it says of itself, how it ends."""

import asyncio
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health, health_pb2

from shared.garbage import collect_garbage
from shared.grpc_services import HEALTH, diagnostics, health_handler
from shared.options import ServerOptions
from shared.rpc import Calls
from shared.security.authentication import Authentication
from shared.security.authorization import Authorization, check_demands
from shared.security.listening import check_listen
from shared.security.misconfigured import Misconfigured
from shared.security.tls import ServerTls

MAX_REQUEST_BYTES = 4 << 20
MAX_METADATA_BYTES = 16 << 10
UNARY_CALLS = 150
"""Of one connection, beside as many streams as its caller may have. A client waits with more; one
that sends a greater number at once may be told UNAVAILABLE for some. What a peer sends in vain is
held until it is refused, so this bounds that, too."""

HANDSHAKE_S = 10
GRACE_S = 10.0
"""How long calls may take to end once the service is told to stop."""

QUIET_S = 0.2
BACKLOG_S = 2.0
FLUSH_S = 1.0
LOOK_S = 1.0
"""Between two looks at whether gRPC still serves."""

READY = ""
LIVE = "live"
"""What health calls the whole server: whether it can be sent calls, and whether it runs at all."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # Who connects and says nothing is let go.
    ("grpc.server_handshake_timeout_ms", 1000 * HANDSHAKE_S),
    # A peer that has vanished is noticed within 15 s, and clients may look as often as every 10 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # It is this that counts for a connection with open streams; left alone it is a minute.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Without this a second process could listen on the same port.
    ("grpc.so_reuseport", 0),
]

logger = structlog.get_logger(__name__)


class Server:
    """An async context manager: from entering, signals only ask; on leaving, all is cut off.

    Args:
        listen: HOST:PORT; port 0 is a free one.
        options: how to listen, and what may be asked of it.

    Raises:
        OSError: it is no address, or a file cannot be read.
        Misconfigured: the options are not safe, or do not go together.
    """

    def __init__(self, listen: str, options: ServerOptions = ServerOptions()) -> None:  # noqa: B008  # it cannot change
        self._tls = _tls(options)
        self._authentication = Authentication(
            options, has_client_certificates=options.tls_client_ca is not None
        )
        check_listen(
            listen,
            has_tls=self._tls is not None,
            asks=self._authentication.is_on,
            insecure=options.insecure,
        )
        self._listen = listen
        self._options = options
        authorization = Authorization(self._authentication) if self._authentication.is_on else None
        self._calls = Calls(options, authorization)
        streams = options.max_streams_per_caller if authorization else options.max_streams
        self._grpc_options = [
            *OPTIONS,
            ("grpc.max_concurrent_streams", streams + UNARY_CALLS),
            ("grpc.enable_channelz", int(options.channelz)),
        ]
        self._server = grpc.aio.server(options=self._grpc_options)
        self._health = health.aio.HealthServicer()
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._services: list[str] = []
        self._health_names: set[str] = set()
        self._signal = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []

    def add(self, service: ServiceDescriptor, method_of: Callable[[MethodDescriptor], Any]) -> None:
        """Serves a service; see `shared.rpc.Calls.handler`."""
        self._handlers.append(self._calls.handler(service, method_of))
        self._services.append(service.full_name)

    async def set_health(self, names: Iterable[str], is_serving: bool) -> None:
        """Says how gRPC services, by their full names, and others that health knows, are.

        During a drain it stays as it is.
        """
        if not self._calls.drain.is_on:
            await self._tell_health(names, is_serving)

    async def start(self, unready: Iterable[str] = ()) -> str:
        """Starts to serve.

        Args:
            unready: what health calls NOT_SERVING until `set_health` says otherwise; all else is
                SERVING from now on.

        Returns:
            The address, with the port it got.

        Raises:
            OSError: the address cannot be had.
            Misconfigured: what the credentials are judged by cannot be read.
        """
        await self._authentication.read()
        ours = list(self._services)
        # It is open to all, and its streams have no part in a drain.
        check_demands(HEALTH)
        self._handlers.append(health_handler(self._health))
        for service, method_of in diagnostics(self._options, ours):
            self.add(service, method_of)
        await self._tell_health([READY, LIVE, *ours], True)
        await self._tell_health(unready, False)
        port = await self._start_grpc()
        self._listen = f"{self._listen.rpartition(':')[0]}:{port}"
        for running in (self._authentication.run(), collect_garbage()):
            self._running.append(self._tasks.create_task(running))
        return self._listen

    async def serve_until_signal(self) -> None:
        """Serves until SIGTERM or SIGINT, then lets calls end: see `drain`."""
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(self._keep_serving(), name="keep serving")
            await self._signal.wait()
            serving.cancel()
        await self.drain()

    async def drain(self) -> None:
        """Refuses new calls, finishes those that are being answered, ends the streams."""
        logger.info("draining")
        self._calls.drain.start()
        # It is alive: who takes it for dead now kills it before the last answers have left.
        await self._tell_health(self._health_names - {LIVE}, False)
        try:
            async with asyncio.timeout(GRACE_S):
                await self._calls.wait_until_idle()
        except TimeoutError:
            logger.warning("calls_cut_off", after_s=GRACE_S)
        # gRPC may still hold calls that no handler has seen. To stop at once would cut them off; so
        # they are refused, as something that can be tried elsewhere.
        with suppress(TimeoutError):
            async with asyncio.timeout(BACKLOG_S):
                await self._calls.wait_until_quiet(QUIET_S)
        # For the last answers to leave. What is left then are others' streams: health watches.
        await self._server.stop(FLUSH_S)

    async def _tell_health(self, names: Iterable[str], is_serving: bool) -> None:
        for name in names:
            self._health_names.add(name)
            await self._health.set(name, SERVING if is_serving else NOT_SERVING)

    async def _start_grpc(self) -> int:
        """Has gRPC listen; the port it got."""
        self._server.add_generic_rpc_handlers(self._handlers)
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(self._listen)
            else:
                port = self._server.add_secure_port(self._listen, self._tls.credentials())
        except RuntimeError as error:
            raise OSError(f"Cannot listen on {self._listen}: {error}") from error
        await self._server.start()
        return port

    async def _keep_serving(self) -> None:
        """Starts gRPC anew when it has stopped by itself.

        It does at a request whose path is no UTF-8, which anybody can send. From then on nobody is
        let in any more, and only who looks is told.
        """
        while True:
            try:
                await self._server.wait_for_termination(LOOK_S)
            except Exception:
                logger.exception("grpc_stopped")
                await self._server.stop(FLUSH_S)
                self._server = grpc.aio.server(options=self._grpc_options)
                await self._start_grpc()

    async def __aenter__(self) -> "Server":
        await self._tasks.__aenter__()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal.set)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._running:
            task.cancel()
        await self._server.stop(None)
        await self._tasks.__aexit__(None, None, None)


def _tls(options: ServerOptions) -> ServerTls | None:
    if (options.tls_cert is None) != (options.tls_key is None):
        raise Misconfigured("--tls-cert and --tls-key go together")
    if options.tls_cert and options.tls_key:
        return ServerTls(options.tls_cert, options.tls_key, options.tls_client_ca)
    if options.tls_client_ca:
        raise Misconfigured("--tls-client-ca needs --tls-cert and --tls-key")
    return None
