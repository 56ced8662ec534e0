"""Runs every fault with some seeds, each run a process, and prints a table: `make torture`."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from tests.torture.controls import CONTROLS
from tests.torture.database_faults import DATABASE_FAULTS
from tests.torture.faults import FAULTS, Fault
from tests.torture.run import Verdict, play
from tests.torture.world import PACE_S, SLOW_PACE_S

FOLDER = Path("build/torture")
RESULTS = FOLDER / "results.jsonl"
WIDTH = 120
"""Where there is no terminal to say."""

MAX_COMPLAINT = 600
"""Characters that are printed of one; the file has all."""

RUN_S = 180.0
"""After which a run is given up."""

CLEAN_UP_S = 30.0

JOBS = 1 + (os.cpu_count() or 1)
"""Some of them wait."""

console = Console(width=None if sys.stdout.isatty() else WIDTH)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def torture(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds of each fault.")] = 2,
    seed: Annotated[int | None, typer.Option(help="Just this one.")] = None,
    fault: Annotated[str | None, typer.Option(help="Just this one.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = JOBS,
    as_json: Annotated[bool, typer.Option("--json", hidden=True)] = False,
) -> None:
    """Run both services under faults, and check what their clients saw."""
    known = [*FAULTS, *DATABASE_FAULTS, *(control.fault for control in CONTROLS)]
    chosen = [each for each in known if fault in {None, each.name}]
    if not chosen:
        names = ", ".join(each.name for each in known)
        raise typer.BadParameter(f"there is no {fault!r}; there are: {names}")
    if as_json:
        [only] = chosen
        sys.stdout.write(json.dumps(asdict(asyncio.run(_play(only, seed or 0)))))
        return
    numbers = [seed] if seed is not None else list(range(1, seeds + 1))
    began = time.monotonic()
    verdicts = asyncio.run(_play_all(chosen, numbers, jobs))
    has_failed = _report(chosen, verdicts)
    console.print(
        f"{len(verdicts)} runs in {time.monotonic() - began:.0f} s; {RESULTS}, a line for each"
    )
    raise typer.Exit(1 if has_failed else 0)


async def _play(fault: Fault, seed: int) -> Verdict:
    folder = _folder(fault.name, seed)
    folder.mkdir(parents=True)
    # Who is always busy never sees what only shows in a pause; to find a weakness out takes much.
    is_control = fault.name in {control.fault.name for control in CONTROLS}
    pace_s = PACE_S if seed % 2 or is_control else SLOW_PACE_S
    return await play(fault, seed, folder.resolve(), pace_s)


def _folder(fault: str, seed: int) -> Path:
    return FOLDER / f"{fault.replace(' ', '-')}-{seed}"


async def _play_all(faults: Sequence[Fault], seeds: Sequence[int], jobs: int) -> list[Verdict]:
    room = asyncio.Semaphore(jobs)
    possible = [fault for fault in faults if not fault.reason_it_cannot()]
    await asyncio.to_thread(_clear, possible, seeds)
    with Progress(
        TextColumn("torture"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=len(possible) * len(seeds))

        async def one(fault: Fault, seed: int) -> Verdict:
            async with room:
                verdict = await _in_process(fault, seed)
                await asyncio.to_thread(_keep, verdict)
            progress.advance(task)
            return verdict

        runs = [one(fault, seed) for seed in seeds for fault in possible]
        return await asyncio.gather(*runs)


def _keep(verdict: Verdict) -> None:
    """Notes what came of a run; what it left is of interest where something was wrong."""
    with RESULTS.open("a") as results:
        results.write(f"{json.dumps(asdict(verdict))}\n")
    if not verdict.complaints:
        shutil.rmtree(_folder(verdict.fault, verdict.seed))


def _clear(faults: Sequence[Fault], seeds: Sequence[int]) -> None:
    """Removes what earlier runs have left of these; one of a single fault leaves the others'."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if len(faults) > 1:
        RESULTS.unlink(missing_ok=True)
    for fault in faults:
        for seed in seeds:
            shutil.rmtree(_folder(fault.name, seed), ignore_errors=True)


async def _in_process(fault: Fault, seed: int) -> Verdict:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.torture",
        "--json",
        *("--fault", fault.name, "--seed", str(seed)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(RUN_S):
            output, errors = await process.communicate()
    except TimeoutError:
        # It has services and mounts to clean up.
        process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLEAN_UP_S):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
        return Verdict.unfinished(fault, seed, f"it took more than {RUN_S:.0f} s")
    if process.returncode != 0:
        return Verdict.unfinished(fault, seed, errors.decode().strip()[-2000:])
    fields = json.loads(output)
    return Verdict(**{**fields, "complaints": tuple(fields["complaints"])})


def _report(faults: Sequence[Fault], verdicts: Sequence[Verdict]) -> bool:
    """Prints the tables; whether anything is wrong."""
    controls = {control.fault.name: control for control in CONTROLS}
    table = Table(Column("fault", no_wrap=True), title="Faults; the longest recovery")
    for column in (
        "seeds", "acknowledged", "unknown", "resolved", "lost", "duplicated", "recovery s",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    table.add_column("kept every promise")
    found_out = Table(
        Column("weakness", no_wrap=True), "seeds", "found out", "by", title="Controls"
    )
    wrong: list[Verdict] = []
    for fault in faults:
        some = [each for each in verdicts if each.fault == fault.name]
        if reason := fault.reason_it_cannot():
            table.add_row(fault.name, "not run", *[""] * 6, reason)
        elif control := controls.get(fault.name):
            missed = [each for each in some if not _breaks(each, control.breaks)]
            wrong += missed
            broken = {each.partition(":")[0] for every in some for each in every.complaints}
            by = ", ".join(sorted(broken & {f"Invariant {number}" for number in control.breaks}))
            found_out.add_row(fault.name, str(len(some)), str(len(some) - len(missed)), by)
        else:
            wrong += [each for each in some if each.complaints]
            table.add_row(fault.name, *_sums(some))
    for each in (table, found_out):
        if each.row_count:
            console.print(each)
    for verdict in wrong:
        name = shlex.quote(verdict.fault)
        console.print(f"[bold red]{verdict.fault}, seed {verdict.seed}[/]", highlight=False)
        for complaint in verdict.complaints[:5] or ("It was not found out",):
            console.print(f"  {complaint[:MAX_COMPLAINT]}", markup=False, highlight=False)
        console.print(f"  again: make torture FAULT={name} SEED={verdict.seed}", markup=False)
    return bool(wrong)


def _sums(verdicts: Sequence[Verdict]) -> list[str]:
    failures = sum(bool(each.complaints) for each in verdicts)
    return [
        str(len(verdicts)),
        *(
            f"{sum(getattr(each, field) for each in verdicts):,}"
            for field in ("acknowledged", "unknown", "resolved", "lost", "duplicated")
        ),
        f"{max(each.recovery_s for each in verdicts):.2f}",
        "yes" if not failures else f"no: {failures} of {len(verdicts)}",
    ]


def _breaks(verdict: Verdict, invariants: frozenset[int]) -> bool:
    starts = tuple(f"Invariant {number}:" for number in invariants)
    return any(complaint.startswith(starts) for complaint in verdict.complaints)


if __name__ == "__main__":
    app()
