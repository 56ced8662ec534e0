"""A short torture of two command services on one PostgreSQL: several faults in one run.

`make torture` runs each by itself, with several seeds.
"""

import random
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from tests.torture.database_faults import DATABASE_FAULTS
from tests.torture.faults import Fault
from tests.torture.run import play
from tests.torture.stage import Stage
from tests.torture.world import SLOW_PACE_S

SEED = 1

# What a server that was killed has left of a connection, the garbage collector may find first.
pytestmark = pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")

SERVICES = ("kill command of two", "freeze command, PostgreSQL", "cut, PostgreSQL")
SERVER = ("restart PostgreSQL", "kill PostgreSQL", "terminate connections", "no connections")


def one_after_the_other(names: tuple[str, ...]) -> Fault:
    faults = [each for each in DATABASE_FAULTS if each.name in names]

    async def strike(stage: Stage, choose: random.Random) -> None:
        for fault in faults:
            await fault.strike(stage, choose)

    return replace(faults[0], name=", ".join(names), strike=strike, felt_as="UNAVAILABLE")


async def keeps_every_promise(fault: Fault, folder: Path) -> None:
    verdict = await play(fault, SEED, folder, SLOW_PACE_S)

    assert verdict.complaints == ()
    assert verdict.unknown, "no outcome was ever in doubt"
    assert verdict.resolved == verdict.unknown


async def test_every_promise_is_kept_though_the_services_are_attacked(
    postgres_url: str, tmp_path: Path
) -> None:
    given = one_after_the_other(SERVICES)
    await keeps_every_promise(replace(given, log=postgres_url, database=nullcontext), tmp_path)


async def test_every_promise_is_kept_though_the_server_is_attacked(tmp_path: Path) -> None:
    await keeps_every_promise(one_after_the_other(SERVER), tmp_path)
