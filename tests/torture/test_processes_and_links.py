"""Every promise is kept while services end, or stand still, and connections break."""

from pathlib import Path

from tests.torture.faults import FAULTS
from tests.torture.short import (
    DAMAGE,
    DISKS_AND_CLOCKS,
    ELSEWHERE,
    LINKS,
    PROCESSES,
    keeps_every_promise,
    of_one_machine,
)


async def test_every_promise_is_kept_though_services_end_or_stand_still(tmp_path: Path) -> None:
    await keeps_every_promise(of_one_machine(PROCESSES), tmp_path)


async def test_every_promise_is_kept_though_connections_break(tmp_path: Path) -> None:
    await keeps_every_promise(of_one_machine(LINKS), tmp_path)


def test_every_fault_that_needs_no_privilege_is_in_a_short_torture() -> None:
    free = {each.name for each in FAULTS if not each.needs_privilege}

    assert free == {*PROCESSES, *LINKS, *DISKS_AND_CLOCKS, *DAMAGE, *ELSEWHERE}
