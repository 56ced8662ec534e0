"""Every promise is kept by two command services on one PostgreSQL, whatever happens to either."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from tests.torture.database_faults import DATABASE_FAULTS
from tests.torture.faults import Fault
from tests.torture.short import keeps_every_promise, one_after_the_other

# What a server that was killed has left of a connection, the garbage collector may find first.
pytestmark = pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")

SERVICES = (
    "kill command of two",
    "freeze command, PostgreSQL",
    "cut, PostgreSQL",
    "half-open, PostgreSQL",
    "half-close, PostgreSQL",
)
SERVER = (
    "restart PostgreSQL",
    "kill PostgreSQL",
    "kill backend",
    "terminate connections",
    "no connections",
    "locked tables",
)
ELSEWHERE = {
    f"{name}, PostgreSQL"
    for name in ("nothing", "delay", "clocks", "terminate command", "long freeze of command")
}
"""All but the last are in a short torture on SQLite, and no other there; that one takes long."""


def faults_of(names: tuple[str, ...]) -> Fault:
    return one_after_the_other([each for each in DATABASE_FAULTS if each.name in names])


async def test_every_promise_is_kept_though_the_services_are_attacked(
    postgres_url: str, tmp_path: Path
) -> None:
    given = faults_of(SERVICES)
    await keeps_every_promise(replace(given, log=postgres_url, database=nullcontext), tmp_path)


async def test_every_promise_is_kept_though_the_server_is_attacked(tmp_path: Path) -> None:
    await keeps_every_promise(faults_of(SERVER), tmp_path)


def test_every_fault_that_needs_no_privilege_is_in_a_short_torture() -> None:
    free = {each.name for each in DATABASE_FAULTS if not each.needs_privilege}

    assert free == {*SERVICES, *SERVER, *ELSEWHERE}
