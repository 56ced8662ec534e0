"""Plots of results, as PNG files."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.measurement import ScenarioResult, SideResult, Spread

SUBJECT_COLOUR = "#0b6e99"
REFERENCE_COLOUR = "#9a9a9a"

mpl.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})


def over_callers(results: Sequence[ScenarioResult], path: Path, names: Collection[str]) -> None:
    """Throughput and p99 latency over the number of callers, beside the reference's.

    Args:
        results: those of a group.
        path: of the PNG.
        names: which of the results; nothing is drawn without any of them.
    """
    shown = [result for result in results if result.name in names]
    if not shown:
        return
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    rates, latencies = figure.subplots(1, 2)
    _draw(rates, shown, f"{shown[0].unit} per second", lambda side: side.rate)
    _draw(latencies, shown, "p99 latency, ms", lambda side: side.p99_ms)
    latencies.set_yscale("log")
    latencies.yaxis.set_major_formatter("{x:g}")
    rates.set_ylim(bottom=0)
    rates.legend()
    figure.savefig(path, dpi=150)


def over_time(results: Sequence[ScenarioResult], path: Path, name: str, label: str) -> None:
    """The curves of one result over time.

    Args:
        results: those of a group.
        path: of the PNG.
        name: of the result; nothing is drawn without it.
        label: what the curves show, and in which unit.
    """
    for result in results:
        if result.name == name:
            figure = Figure(figsize=(6, 3.4), layout="constrained")
            axes = figure.subplots()
            for curve_name, curve in result.curves.items():
                axes.plot(*zip(*curve, strict=True), label=curve_name)
            axes.set_ylim(bottom=0)
            axes.set_xlabel("seconds")
            axes.set_ylabel(label)
            axes.legend()
            figure.savefig(path, dpi=150)


def _draw(
    axes: Any,
    results: Sequence[ScenarioResult],
    label: str,
    figure_of: Callable[[SideResult], Spread | None],
) -> None:
    callers = [result.parameters["callers"] for result in results]
    subjects = [result.subject for result in results]
    references = [result.reference for result in results]
    for sides, colour in ((references, REFERENCE_COLOUR), (subjects, SUBJECT_COLOUR)):
        spreads = [spread for side in sides if (spread := figure_of(side)) is not None]
        medians = [spread.median for spread in spreads]
        axes.plot(callers, medians, "o-", color=colour, label=sides[0].name)
        lows = [spread.low for spread in spreads]
        axes.fill_between(callers, lows, [s.high for s in spreads], color=colour, alpha=0.2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(callers, [str(count) for count in callers])
    axes.set_xlabel("callers")
    axes.set_ylabel(label)
