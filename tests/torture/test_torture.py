"""A short torture: each kind of fault once, several in one run, with a fixed seed.

`make torture` runs each by itself, with several seeds.
"""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.torture.faults import FAULTS, FAULTY_COMMAND, FAULTY_QUERY, Fault
from tests.torture.run import play
from tests.torture.stage import Stage
from tests.torture.world import SLOW_PACE_S

SEED = 1

TOGETHER = {
    "processes": (
        "kill command",
        "kill query",
        "kill both",
        "terminate command",
        "terminate query",
        "freeze command",
        "freeze query",
        "second writer",
    ),
    "links": ("cut", "delay", "half-close", "half-open"),
    "disks and clocks": (
        "clocks",
        "full disk of command",
        "full disk of query",
        "fsync of command",
        "fsync of query",
        "write of command",
        "write of query",
        "power loss of command",
        "power loss of query",
    ),
    "damage": ("flip event", "flip WAL", "truncate WAL", "old backup"),
}
ALONE = {"nothing", "long freeze of command", "long freeze of query"}
"""The one is part of every run; the others take long."""


def one_after_the_other(name: str) -> Fault:
    faults = [each for each in FAULTS if each.name in TOGETHER[name]]

    async def strike(stage: Stage, choose: random.Random) -> None:
        for fault in faults:
            await fault.strike(stage, choose)

    if name == "disks and clocks":
        return Fault(name, strike, command=FAULTY_COMMAND, query=FAULTY_QUERY)
    return replace(faults[0], name=name, strike=strike, felt_as="")


@pytest.mark.parametrize("name", TOGETHER)
async def test_every_promise_is_kept_under_faults_of(name: str, tmp_path: Path) -> None:
    verdict = await play(one_after_the_other(name), SEED, tmp_path, SLOW_PACE_S)

    assert verdict.complaints == ()
    assert verdict.unknown, "no outcome was ever in doubt"
    assert verdict.resolved == verdict.unknown


def test_every_fault_that_needs_no_privilege_is_among_them() -> None:
    free = {each.name for each in FAULTS if not each.needs_privilege}

    assert free == {name for names in TOGETHER.values() for name in names} | ALONE
