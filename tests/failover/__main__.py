"""Kills the primary under load again and again, and has it come back each time: `make failover`."""

import asyncio
import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.failover.cluster import TTL_S, Cluster, ClusterFailed, cluster, reason_it_cannot
from tests.postgres.databases import execute
from tests.torture.faults import LARGE_COMMAND, Fault
from tests.torture.run import Verdict, play
from tests.torture.stage import Stage

FOLDER = Path("build/failover")
REWOUND = "running pg_rewind"
"""What Patroni says then."""

console = Console(width=None if sys.stdout.isatty() else 120)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass
class Failover:
    """What came of one.

    Args:
        verdict: what the clients saw.
        promoted_s: from the kill until another was the primary.
        whole_s: from the old one's return until both standbys were synchronous again.
        is_rewound: whether the old one had what no other had, and was wound back.
    """

    verdict: Verdict
    promoted_s: float
    whole_s: float
    is_rewound: bool


@app.command()
def failover(
    failovers: Annotated[int, typer.Option(min=1, help="How many.")] = 5,
) -> None:
    """Fail over under load, and check what the clients saw."""
    if reason := reason_it_cannot():
        console.print(f"It cannot be done here: {reason}")
        raise typer.Exit(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        done = asyncio.run(_run(failovers))
    except ClusterFailed as error:
        console.print(str(error), markup=False, highlight=False)
        raise typer.Exit(1) from None
    raise typer.Exit(1 if _report(done) else 0)


async def _run(failovers: int) -> list[Failover]:
    began = time.monotonic()
    done: list[Failover] = []
    async with cluster() as servers:
        console.print(f"A primary and two standbys after {time.monotonic() - began:.0f} s")
        for number in range(1, failovers + 1):
            done.append(await _play(servers, number))
            pause_s = done[-1].verdict.pause_s
            console.print(f"{number} of {failovers}: {pause_s:.1f} s without acknowledged writes")
    content = json.dumps([asdict(each) for each in done], indent=1)
    await asyncio.to_thread((FOLDER / "results.json").write_text, content)
    return done


async def _play(servers: Cluster, number: int) -> Failover:
    """One run of the clients on a log of its own, with a failover in the middle."""
    promoted_s = whole_s = 0.0
    is_rewound = False

    async def strike(_: Stage, __: random.Random) -> None:
        nonlocal promoted_s, whole_s, is_rewound
        old = await servers.whole()
        killed = time.monotonic()
        await old.kill()
        await servers.primary(after=old)
        promoted_s = time.monotonic() - killed
        rewound = old.output.read_text().count(REWOUND)
        returned = time.monotonic()
        await old.start()
        await servers.whole()
        whole_s = time.monotonic() - returned
        is_rewound = old.output.read_text().count(REWOUND) > rewound

    schema = f"failover_{number}"
    await execute(servers.url, f"CREATE SCHEMA {schema}; CREATE SCHEMA {schema}_keys")
    log = f"{servers.url}&search_path={schema}"
    fault = Fault(
        "failover",
        strike,
        LARGE_COMMAND,
        log=log,
        others=1,
        other_queries=1,
        felt_as=("UNAVAILABLE",),
    )
    folder = FOLDER / str(number)
    folder.mkdir(parents=True)
    verdict = await play(fault, number, folder.resolve())
    return Failover(verdict, promoted_s, whole_s, is_rewound)


def _report(done: Sequence[Failover]) -> bool:
    """Prints the table; whether anything is wrong."""
    table = Table(title="Failovers; times in seconds")
    for column in (
        "promoted", "no writes", "recovery", "whole again", "acknowledged", "unknown", "resolved",
        "lost", "twice",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    table.add_column("rewound")
    table.add_column("kept every promise")
    for each in done:
        verdict = each.verdict
        times = (each.promoted_s, verdict.pause_s, verdict.recovery_s, each.whole_s)
        counts = (
            verdict.acknowledged,
            verdict.unknown,
            verdict.resolved,
            verdict.lost,
            verdict.duplicated,
        )
        table.add_row(
            *(f"{seconds:.1f}" for seconds in times),
            *(f"{count:,}" for count in counts),
            "yes" if each.is_rewound else "no need",
            "no" if verdict.complaints else "yes",
        )
    console.print(table)
    for number, each in enumerate(done, 1):
        for complaint in each.verdict.complaints[:5]:
            console.print(f"{number}: {complaint}", markup=False, highlight=False)
    pauses = [each.verdict.pause_s for each in done]
    console.print(
        f"Without acknowledged writes: {statistics.median(pauses):.1f} s"
        f" ({min(pauses):.1f} to {max(pauses):.1f});"
        f" Patroni waits {TTL_S} s for a primary that is silent. {FOLDER}/results.json"
    )
    return any(each.verdict.complaints for each in done)


if __name__ == "__main__":
    app()
