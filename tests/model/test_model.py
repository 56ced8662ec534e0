"""Histories that Hypothesis makes up, in which everything fails: `make model` has many more."""

import os
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.model.weaknesses import WEAKNESSES

EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
"""0: a few, which are always the same."""

pytestmark = pytest.mark.timeout(0 if EXAMPLES else 120)

simulated = settings(
    max_examples=EXAMPLES or 60,
    stateful_step_count=40,
    derandomize=not EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

EXPECTED = {
    *("done", "refused", "repetition", "WRONG_VERSION", "COMMAND_ID_REUSED", "DISK_FULL"),
    *("unknown", "absent", "behind", "ListShips", "rebuilt"),
    *("command service died", "query service died"),
}


def test_whatever_happens_the_invariants_hold() -> None:
    Machine.seen.clear()

    run_state_machine_as_test(Machine, settings=simulated)

    print("\n".join(f"{count:9,} {what}" for what, count in sorted(Machine.seen.items())))  # noqa: T201  # for who asks, by -s
    # A run without these proves nothing.
    missing = EXPECTED - (+Machine.seen).keys()
    assert not missing, f"It never happened: {missing}"


@pytest.mark.parametrize("name", WEAKNESSES)
def test_a_service_is_found_out_that_has_this_weakness(name: str) -> None:
    class WeakMachine(Machine):
        weakness = name
        seen: ClassVar[Counter[str]] = Counter()

    enough = settings(
        simulated, max_examples=100, phases=[Phase.generate], derandomize=True, database=None
    )
    with pytest.raises((AssertionError, TimeoutError)):
        run_state_machine_as_test(WeakMachine, settings=enough)
