"""Results as people and programs read them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.measurement import ScenarioResult, SideResult, Spread
from benchmarks.scenario import Group

HEADER = (
    "scenario", "load", "per second", "ratio", "p50 ms", "p99 ms", "server µs", "load µs",
    "RSS MB", "besides",
)  # fmt: skip

NOTES = (
    "First the subject, then its reference; medians of the rounds, with the lowest and the highest"
    " in parentheses. The ratio is taken in each round. Server µs and load µs are CPU time per"
    " operation, RSS is the most memory that the servers had."
)

TEXTS = {"scenario", "besides"}
"""What may be wrapped."""

Cell = tuple[str, ...]
"""Of the subject and the reference, or of both."""


@dataclass(frozen=True)
class Report:
    """Everything that a run has found.

    Args:
        date: when it began, in ISO 8601.
        machine: see `benchmarks.machine.described`.
        method: in sentences.
        groups: what was measured, and what came out.
        failures: what could not be measured, and why.
    """

    date: str
    machine: dict[str, str | int]
    method: str
    groups: Sequence[tuple[Group, Sequence[ScenarioResult]]]
    failures: Sequence[str]

    def print(self, console: Console) -> None:
        """Shows it."""
        for group, results in self.groups:
            console.print(_table(group.title, results))
        console.print(NOTES)

    def write(self, out: Path) -> None:
        """Writes results.json, results.md, and a plot of each group that has one."""
        (out / "results.json").write_text(self._json(), encoding="utf-8")
        (out / "results.md").write_text(self._markdown(), encoding="utf-8")
        for group, results in self.groups:
            if group.plot is not None:
                group.plot(results, out / f"{group.name}.png")

    def _json(self) -> str:
        fields: dict[str, Any] = {
            "date": self.date,
            "machine": self.machine,
            "method": self.method,
            "failures": list(self.failures),
            "groups": {
                group.name: [asdict(result) for result in results] for group, results in self.groups
            },
        }
        return json.dumps(fields, indent=2) + "\n"

    def _markdown(self) -> str:
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        parts = [f"{self.date}: {machine}.", self.method, NOTES]
        for group, results in self.groups:
            parts += [f"### {group.title}", _markdown_table(results)]
        parts += [f"Not measured: {failure}" for failure in self.failures]
        return "\n\n".join(parts) + "\n"


def _table(title: str, results: Sequence[ScenarioResult]) -> Table:
    table = Table(title=title, box=SIMPLE, show_lines=True)
    for name in HEADER:
        is_text = name in TEXTS
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text)
    for result in results:
        table.add_row(*("\n".join(cell) for cell in _row(result)))
    return table


def _markdown_table(results: Sequence[ScenarioResult]) -> str:
    rows: list[Sequence[str]] = [HEADER, ["---"] * 2 + ["---:"] * (len(HEADER) - 2)]
    rows += [[" / ".join(cell) for cell in _row(result)] for result in results]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(result: ScenarioResult) -> list[Cell]:
    sides = result.subject, result.reference
    parameters = [
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
        for name, value in result.parameters.items()
    ]
    figures = [f"{_number(value)} {name}" for name, value in result.figures.items()]
    return [
        (f"{result.unit} {result.title}",),
        (", ".join(parameters),),
        tuple(_spread(side.rate) for side in sides),
        (_spread(result.ratio),),
        tuple(_median(side.p50_ms) for side in sides),
        tuple(_median(side.p99_ms) for side in sides),
        tuple(_cpu_us(side, is_load=False) for side in sides),
        tuple(_cpu_us(side, is_load=True) for side in sides),
        tuple(_rss_mb(side) for side in sides),
        (", ".join(figures),),
    ]


def _spread(spread: Spread) -> str:
    return f"{_number(spread.median)} ({_number(spread.low)}–{_number(spread.high)})"


def _number(value: float) -> str:
    """Three digits of it, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _median(spread: Spread | None) -> str:
    return "–" if spread is None else _number(spread.median)


def _cpu_us(side: SideResult, *, is_load: bool) -> str:
    """Of all servers, or all load processes, together."""
    used = [each.cpu_us.median for each in side.processes if each.is_load == is_load]
    return _number(sum(used)) + (f" in {len(used)}" if len(used) > 1 else "")


def _rss_mb(side: SideResult) -> str:
    return f"{sum(each.peak_rss_bytes for each in side.processes if not each.is_load) / 1e6:.0f}"
