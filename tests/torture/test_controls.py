"""The checker finds out each service that is known to be wrong: see `controls`."""

from pathlib import Path

import pytest

from tests.torture.controls import CONTROLS, Control
from tests.torture.run import play

SEED = 1


@pytest.mark.parametrize("control", CONTROLS, ids=lambda each: each.fault.name)
async def test_a_service_is_found_out_that_has_this_weakness(
    control: Control, tmp_path: Path
) -> None:
    verdict = await play(control.fault, SEED, tmp_path)

    found = {complaint.partition(":")[0] for complaint in verdict.complaints}
    assert found & {f"Invariant {number}" for number in control.breaks}
