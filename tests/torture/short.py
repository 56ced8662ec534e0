"""A short torture: several faults in one run, with a fixed seed.

`make torture` runs each by itself, with several seeds.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.torture.faults import FAULTS, FAULTY_COMMAND, FAULTY_QUERY, Fault
from tests.torture.run import play
from tests.torture.world import SLOW_PACE_S

SEED = 1

PROCESSES = (
    "kill command",
    "kill query",
    "kill both",
    "terminate command",
    "terminate query",
    "freeze command",
    "freeze query",
    "second writer",
)
LINKS = ("cut", "delay", "half-close", "half-open")
DISKS_AND_CLOCKS = (
    "clocks",
    "full disk of command",
    "full disk of query",
    "fsync of command",
    "fsync of query",
    "write of command",
    "write of query",
    "power loss of command",
    "power loss of query",
)
DAMAGE = ("flip event", "truncate database", "flip WAL", "truncate WAL", "old backup")

ELSEWHERE = {"nothing", "long freeze of command", "long freeze of query"}
"""The one is part of every run; the others take long."""


def of_one_machine(names: Sequence[str]) -> Fault:
    """Those of the faults of services on SQLite, one after the other."""
    fault = one_after_the_other([each for each in FAULTS if each.name in names])
    if names is DISKS_AND_CLOCKS:
        return replace(fault, command=FAULTY_COMMAND, query=FAULTY_QUERY)
    return fault


def one_after_the_other(faults: Sequence[Fault]) -> Fault:
    """All of them as one, for a run that begins as the first one's does."""

    name = ", ".join(each.name for each in faults)
    return replace(faults[0], name=name, parts=tuple(faults))


async def keeps_every_promise(fault: Fault, folder: Path) -> None:
    """Fails if the checker complains of a run with this fault; the same test has it again."""
    verdict = await play(fault, SEED, folder, SLOW_PACE_S)

    assert verdict.complaints == (), f"Of these, with seed {SEED}: {fault.name}"
    assert verdict.unknown, "no outcome was ever in doubt"
    assert verdict.resolved == verdict.unknown
