"""What is read from a file or a URL when a service starts, and again while it runs."""

import asyncio
import http.client
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from shared.changes import Changes
from shared.outage import Outage
from shared.security.listening import is_loopback
from shared.security.misconfigured import Misconfigured

REFRESH_S = 60.0
"""How old it may become, as long as the source can be read; otherwise older."""

MIN_INTERVAL_S = 5.0
"""Between two readings, however often it is asked for."""

READ_S = 5.0
MAX_BYTES = 1 << 20

Value = TypeVar("Value")


class Refreshed(Generic[Value]):
    """The newest good content of a source.

    Args:
        source: a file's path, or an https URL; http is for this machine alone.
        parse: makes a value of the content, or raises ValueError.

    Raises:
        Misconfigured: the source is neither.
    """

    def __init__(self, source: str, parse: Callable[[bytes], Value]) -> None:
        self._source = source
        self._read = _reader(source)
        self._parse = parse
        self._content = b""
        self._value: Value | None = None
        self._read_at = float("-inf")
        self._is_wanted = asyncio.Event()
        self._changes = Changes()
        self._shown = shown(source)
        self._outage = Outage("not_refreshed", source=self._shown)

    @property
    def value(self) -> Value:
        """The same object until the content is another."""
        assert self._value is not None, "read first"  # noqa: S101  # the server does
        return self._value

    async def read(self) -> None:
        """Reads the source for the first time.

        Raises:
            Misconfigured: it cannot be read, or has nothing good.
        """
        try:
            await self._refresh()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Misconfigured(f"{self._shown}: {type(error).__name__} {error}") from error

    async def run(self) -> None:
        """Reads it now and then, and when somebody asks, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self._is_wanted.wait()
            except TimeoutError:
                # It is time.
                pass
            try:
                await self._refresh()
            except (OSError, ValueError, http.client.HTTPException) as error:
                self._outage.failed(type(error).__name__, level=logging.WARNING)
            else:
                self._outage.succeeded()
            self._is_wanted.clear()
            self._changes.notify()

    async def ask(self) -> None:
        """Returns when it has been read again, or at once if that was just done."""
        if time.monotonic() - self._read_at < MIN_INTERVAL_S:
            return
        self._is_wanted.set()
        await self._changes.next()

    async def _refresh(self) -> None:
        self._read_at = time.monotonic()
        async with asyncio.timeout(READ_S):
            content = await asyncio.to_thread(self._read)
        if content != self._content or self._value is None:
            self._value = self._parse(content)
            self._content = content


def shown(source: str) -> str:
    """The source without what may be secret in a URL."""
    return re.sub("//.*@", "//", source).partition("?")[0] if "://" in source else source


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Where keys come from is said by the operator, and by nobody else."""

    def redirect_request(self, *_: object) -> None:
        """Makes an error of a redirection."""


def _reader(source: str) -> Callable[[], bytes]:
    if "://" not in source:
        return lambda: _bounded(Path(source).read_bytes())
    url = urlsplit(source)
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(f"{url.hostname}:0")):
        raise Misconfigured(f"{shown(source)} is neither a file nor an https URL")
    opener = urllib.request.build_opener(_NoRedirect)

    def fetch() -> bytes:
        with opener.open(source, timeout=READ_S) as response:
            return _bounded(response.read(MAX_BYTES + 1))

    return fetch


def _bounded(content: bytes) -> bytes:
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    return content
