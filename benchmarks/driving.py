"""Puts servers under load, and measures them and the load."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from benchmarks import usage
from benchmarks.errors import BenchmarkFailed
from benchmarks.live_orders import LiveOrder, LiveReport
from benchmarks.measurement import Conditions, Measurement, ProcessUse
from benchmarks.orders import READY, LoadReport, Order, Window
from examples.services import Service

START_S = 30.0
REPORT_S = 60.0
"""How long the last calls, and the report of them, may take."""


class LoadProcess:
    """One load process, connected and ready. Made by `load_process`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process

    async def obey(self, order: Order | LiveOrder) -> None:
        """Gives the order; returns when the load process is ready."""
        await self._tell(order.to_json())
        async with asyncio.timeout(START_S):
            if await self._line() != READY:
                raise await self._failure()

    async def begin(self, window: Window) -> None:
        """Has it make its calls from now on."""
        await self._tell(window.to_json())

    async def report(self) -> LoadReport:
        """What it did; returns when its last call is answered."""
        async with asyncio.timeout(REPORT_S):
            line = await self._line()
        if not line:
            raise await self._failure()
        return LoadReport.from_json(line)

    def check(self) -> None:
        """Makes sure that it is still at it.

        Raises:
            BenchmarkFailed: it has ended, and its standard error says how.
        """
        if self._process.returncode is not None:
            raise BenchmarkFailed(f"A load process ended with code {self._process.returncode}")

    async def live_report(self, position: int) -> LiveReport:
        """What live subscribers were sent, once all have come to a position."""
        await self._tell(f"{position}\n")
        async with asyncio.timeout(REPORT_S):
            line = await self._line()
        if not line:
            raise await self._failure()
        return LiveReport.from_json(line)

    async def _tell(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101  # it is a pipe
        self._process.stdin.write(line.encode())
        await self._process.stdin.drain()

    async def _line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        return (await self._process.stdout.readline()).decode()

    async def _failure(self) -> BenchmarkFailed:
        return BenchmarkFailed(f"A load process ended with code {await self._process.wait()}")


@asynccontextmanager
async def load_process(program: str = "benchmarks.load") -> AsyncIterator[LoadProcess]:
    """Starts a load process, the module `program`, and ends it on leaving, whatever it is doing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        program,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 28,
        start_new_session=True,
    )
    try:
        yield LoadProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def under_load(
    orders: Sequence[Order], servers: Sequence[Service], conditions: Conditions
) -> Measurement:
    """Measures servers while load processes of each order call them.

    Raises:
        BenchmarkFailed: a call failed, and the load process's standard error says how; or none was
            completed.
    """
    shares = [share for order in orders for share in order.split(conditions.load_processes)]
    async with AsyncExitStack() as stack:
        loads = [await stack.enter_async_context(load_process(each.program)) for each in shares]
        for load, order in zip(loads, shares, strict=True):
            await load.obey(order)
        begin = time.monotonic() + conditions.warm_up_s
        window = Window(begin, begin + conditions.window_s)
        for load in loads:
            await load.begin(window)
        pids = [*(server.process.pid for server in servers), *(load.pid for load in loads)]
        cpu_s = await _cpu_s_within(window, pids)
        reports = [await load.report() for load in loads]
    operations = sum(report.operations for report in reports)
    if operations == 0:
        raise BenchmarkFailed("Nothing was completed within the measured time")
    return Measurement(
        operations=operations,
        all_operations=sum(report.all_operations for report in reports),
        seconds=conditions.window_s,
        latencies_us=[latency for report in reports for latency in report.latencies_us],
        processes=_process_uses(servers, reports, cpu_s),
        receipts=[receipt for report in reports for receipt in report.receipts],
    )


async def _cpu_s_within(window: Window, pids: Sequence[int]) -> list[float]:
    await _sleep_until(window.begin)
    before = [usage.cpu_s(pid) for pid in pids]
    await _sleep_until(window.end)
    after = [usage.cpu_s(pid) for pid in pids]
    return [late - early for early, late in zip(before, after, strict=True)]


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(moment - time.monotonic())


def _process_uses(
    servers: Sequence[Service], reports: Sequence[LoadReport], cpu_s: Sequence[float]
) -> list[ProcessUse]:
    served, loaded = cpu_s[: len(servers)], cpu_s[len(servers) :]
    return [
        *(
            ProcessUse(
                name=server.name.removeprefix("benchmarks."),
                is_load=False,
                cpu_s=used,
                peak_rss_bytes=usage.peak_rss_bytes(server.process.pid),
            )
            for server, used in zip(servers, served, strict=True)
        ),
        *(
            ProcessUse(f"load {number}", True, used, report.peak_rss_bytes)
            for number, (report, used) in enumerate(zip(reports, loaded, strict=True), 1)
        ),
    ]
