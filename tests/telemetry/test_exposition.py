"""The server of metrics: that it tells what is true now or nothing, and always ends."""

import asyncio
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import Gauge
from structlog.testing import capture_logs

from shared.telemetry import exposition
from shared.telemetry.exposition import Look, exposing
from tests.telemetry.scraping import SCRAPE_S, samples_at, value_of

NUMBER = Gauge("number", "What a test sets", registry=None)


@asynccontextmanager
async def exposed(look: Look) -> AsyncIterator[str]:
    """Where the number is exposed."""
    with capture_logs() as logged:
        async with exposing("127.0.0.1:0", [NUMBER], look, insecure=False):
            yield logged[0]["url"]


async def looking_fine() -> None:
    NUMBER.inc()


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=SCRAPE_S) as response:  # noqa: S310  # the test's own
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


async def test_the_gauges_are_looked_at_each_time_that_somebody_asks() -> None:
    NUMBER.set(0)
    async with exposed(looking_fine) as url:
        seen = [value_of(await asyncio.to_thread(samples_at, url), "number") for _ in range(3)]
    assert seen == [1, 2, 3]


async def test_when_it_cannot_be_told_how_the_service_is_nothing_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def failing() -> None:
        raise ZeroDivisionError

    async def hanging() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(exposition, "LOOK_S", 0.05)
    for look in (failing, hanging):
        async with exposed(look) as url:
            assert await asyncio.to_thread(status_of, url) == 503


async def test_a_client_that_says_nothing_is_let_go_and_does_not_keep_the_service_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exposition._Handler, "timeout", 0.05)  # noqa: SLF001  # rather than wait for 5 s
    async with exposed(looking_fine) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as silent:
            assert await asyncio.to_thread(status_of, url) == 200
            assert await asyncio.to_thread(silent.recv, 1) == b""
