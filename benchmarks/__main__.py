"""The command line: `python -m benchmarks`."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console

from benchmarks import machine
from benchmarks.errors import BenchmarkFailed
from benchmarks.measurement import Conditions, Round, ScenarioResult
from benchmarks.report import Report
from benchmarks.scenario import Group, measured
from benchmarks.scenarios import GROUPS
from benchmarks.stage import shared_folder, staged
from examples.services import ServiceFailed

NAMES = ", ".join(group.name for group in GROUPS)

METHOD = (
    "Each scenario alternates with its reference in {0.rounds} rounds; each measurement takes"
    " {0.window_s} s, after {0.warm_up_s} s of the same load. Servers and load share the machine."
    " The load is made by processes of its own ({0.load_processes} at a time), whose callers each"
    " send their next call once the last is answered; a stream of commands in bulk keeps the number"
    " of requests in flight that is given. An operation counts when it is completed"
    " within the measured time; a single one that fails ends its scenario, which is left out."
    " Of what takes long there are at most 3 rounds; queries are measured for half the time,"
    " streams of events for longer; and work that has an end, such as reading a whole log, is"
    " measured from its beginning to its end. A large log has {0.log_events:,} events, half of"
    " users and half of ships; a new query service and rebuilds read a log of a fifth of that."
)

FAILURES = (BenchmarkFailed, ServiceFailed, grpc.aio.AioRpcError, OSError)
FILE_WIDTH = 160
console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Measure this group: {NAMES}.")] = None,
    long: Annotated[bool, typer.Option("--long", help="Measure what takes long, too.")] = False,
    runs: Annotated[int, typer.Option(min=1, help="Rounds; fewer than 5 say little.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for data and results.")] = Path(
        "build/benchmarks"
    ),
    load_processes: Annotated[int, typer.Option(min=1, help="They share the callers.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="One short round each, to see that it works.")
    ] = False,
) -> None:
    """Measure the services, and write the results."""
    if unknown := set(only or ()) - {group.name for group in GROUPS}:
        raise typer.BadParameter(f"{', '.join(unknown)}; there are {NAMES}", param_hint="--only")
    groups = [_wanted(group, long) for group in GROUPS if not only or group.name in only]
    groups = [group for group in groups if group.scenarios]
    conditions = Conditions(rounds=runs, load_processes=load_processes)
    if quick:
        conditions = replace(conditions, rounds=1, warm_up_s=0.1, window_s=0.3, log_events=50_000)
    out.mkdir(parents=True, exist_ok=True)
    if failures := asyncio.run(run(groups, out, conditions)):
        console.print(*(f"[red]{failure}[/]" for failure in failures), sep="\n")
        raise typer.Exit(1)


async def run(groups: Sequence[Group], out: Path, conditions: Conditions) -> list[str]:
    """Measures groups, and reports; returns what could not be measured, and why."""
    _cancel_on_sigterm()
    failures: list[str] = []
    with shared_folder(out):
        report = Report(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine.described(out),
            method=METHOD.format(conditions),
            groups=[(group, await _results(group, out, conditions, failures)) for group in groups],
            failures=failures,
        )
    report.print(console)
    report.write(out)
    console.print(f"Written to {out}")
    return failures


async def _results(
    group: Group, out: Path, conditions: Conditions, failures: list[str]
) -> list[ScenarioResult]:
    results = []
    for scenario in group.scenarios:
        name = f"{group.name}/{scenario.name}"
        console.print(f"[bold]{name}[/]: {scenario.unit} {scenario.title}")
        try:
            async with staged(f"{group.name}-{scenario.name}", out, conditions) as stage:
                results.append(await measured(scenario, stage, _show))
        except FAILURES as error:
            # What was measured in half an hour is not to be lost.
            failures.append(f"{name}: {error}")
    return results


def _wanted(group: Group, is_long: bool) -> Group:
    scenarios = [each for each in group.scenarios if is_long or not each.is_long]
    return replace(group, scenarios=scenarios)


def _show(each: Round) -> None:
    console.print(
        f"  {each.subject.rate:10,.0f}/s   reference {each.reference.rate:10,.0f}/s"
        f"   ratio {each.ratio:.3f}"
    )


def _cancel_on_sigterm() -> None:
    """Has SIGTERM end everything in order, as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # it is called from one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


if __name__ == "__main__":
    app()
