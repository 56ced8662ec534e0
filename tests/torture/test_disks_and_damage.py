"""Every promise is kept while disks fail, power and clocks too, and what was written is damaged."""

from pathlib import Path

from tests.torture.short import DAMAGE, DISKS_AND_CLOCKS, keeps_every_promise, of_one_machine


async def test_every_promise_is_kept_though_disks_and_clocks_fail(tmp_path: Path) -> None:
    await keeps_every_promise(of_one_machine(DISKS_AND_CLOCKS), tmp_path)


async def test_every_promise_is_kept_though_the_log_is_damaged(tmp_path: Path) -> None:
    await keeps_every_promise(of_one_machine(DAMAGE), tmp_path)
