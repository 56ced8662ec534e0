"""What is measured: once, and over several rounds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

Curve = list[tuple[float, float]]
"""Points: the first coordinate grows."""


@dataclass(frozen=True)
class Conditions:
    """How everything is measured.

    Args:
        rounds: how often each side of a scenario is measured.
        warm_up_s: seconds of load before the window, which do not count.
        window_s: seconds of the window.
        load_processes: how many share the callers of one order.
        log_events: how many events there are in a large log.
    """

    rounds: int = 5
    warm_up_s: float = 0.3
    window_s: float = 1.2
    load_processes: int = 1
    log_events: int = 1_000_000


@dataclass(frozen=True)
class ProcessUse:
    """What one process used.

    Args:
        name: which process.
        is_load: whether it made the load, rather than answered it.
        cpu_s: CPU seconds within the window.
        peak_rss_bytes: the most memory that was resident since it started.
    """

    name: str
    is_load: bool
    cpu_s: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class Measurement:
    """What happened within one window.

    Args:
        operations: completed within it.
        all_operations: completed, those before and after it included.
        seconds: its length.
        latencies_us: of each call, in microseconds; empty if it is no matter of calls.
        processes: servers and load processes.
        receipts: the positions of commands, and when each was acknowledged.
    """

    operations: int
    all_operations: int
    seconds: float
    latencies_us: Sequence[int]
    processes: Sequence[ProcessUse]
    receipts: Sequence[tuple[int, float]] = ()

    def of(self, operations: int) -> "Measurement":
        """The same work counted in other operations."""
        return replace(self, operations=operations, all_operations=operations)

    def beside(self, process: ProcessUse) -> "Measurement":
        """The same with another process that was involved."""
        return replace(self, processes=[*self.processes, process])

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds

    def latency_ms(self, percentile: int) -> float:
        """The latency that so many percent of the calls did not exceed."""
        ordered = sorted(self.latencies_us)
        return ordered[(len(ordered) - 1) * percentile // 100] / 1000

    def cpu_us(self, process: ProcessUse) -> float:
        """CPU microseconds of a process per operation."""
        return process.cpu_s * 1e6 / self.operations


@dataclass(frozen=True)
class Round:
    """One measurement of each side, the reference first."""

    reference: Measurement
    subject: Measurement

    @property
    def ratio(self) -> float:
        """The subject's rate in units of the reference's."""
        return self.subject.rate / self.reference.rate


@dataclass(frozen=True)
class Spread:
    """A figure over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class ProcessResult:
    """What one process used over all rounds.

    Args:
        name: which process.
        is_load: whether it made the load.
        cpu_us: CPU microseconds per operation.
        peak_rss_bytes: the most in any round.
    """

    name: str
    is_load: bool
    cpu_us: Spread
    peak_rss_bytes: int


@dataclass(frozen=True)
class SideResult:
    """One side over all rounds.

    Args:
        name: what it is.
        rate: operations per second.
        p50_ms: median latency; None if it is no matter of calls.
        p99_ms: the latency that one call in a hundred exceeded.
        processes: servers and load processes.
        rates: that of each round.
    """

    name: str
    rate: Spread
    p50_ms: Spread | None
    p99_ms: Spread | None
    processes: Sequence[ProcessResult]
    rates: Sequence[float]

    @classmethod
    def of(cls, name: str, measurements: Sequence[Measurement]) -> "SideResult":
        """What the measurements of one side amount to."""
        rates = [each.rate for each in measurements]
        return cls(
            name=name,
            rate=Spread.of(rates),
            p50_ms=_latency_ms(measurements, 50),
            p99_ms=_latency_ms(measurements, 99),
            processes=[
                _process_result(measurements, number)
                for number in range(len(measurements[0].processes))
            ],
            rates=rates,
        )


@dataclass(frozen=True)
class ScenarioResult:
    """What a scenario amounts to.

    Args:
        name: of the scenario, unique in its group.
        title: what is measured, in a few words.
        unit: what an operation is, in the plural.
        parameters: of the scenario, for example how many callers there are.
        ratio: the subject's rate in units of the reference's, taken in each round.
        subject: what is measured.
        reference: what it is measured by.
        figures: what else there is to know, by its name and unit.
        curves: what happened over time, by its name.
    """

    name: str
    title: str
    unit: str
    parameters: dict[str, Any]
    ratio: Spread
    subject: SideResult
    reference: SideResult
    figures: dict[str, float]
    curves: dict[str, Curve]


def _latency_ms(measurements: Sequence[Measurement], percentile: int) -> Spread | None:
    if not all(each.latencies_us for each in measurements):
        return None
    return Spread.of([each.latency_ms(percentile) for each in measurements])


def _process_result(measurements: Sequence[Measurement], number: int) -> ProcessResult:
    uses = [each.processes[number] for each in measurements]
    return ProcessResult(
        name=uses[0].name,
        is_load=uses[0].is_load,
        cpu_us=Spread.of([each.cpu_us(use) for each, use in zip(measurements, uses, strict=True)]),
        peak_rss_bytes=max(use.peak_rss_bytes for use in uses),
    )
