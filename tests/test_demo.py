"""What a new user sees first."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent

STORIES = """
create test_user with 100
change the balance by +10
change the balance by +250
change the balance by -50
balance 310, version 4
UserCreated
UserBalanceChanged
UserBalanceChanged
UserBalanceChanged
balance 360, version 3
Insufficient balance
nothing was written: balance 310, version 4
duplicate
it had its effect once: balance 310, version 4
register Pacific Explorer
docked in Hong Kong, carrying 300 electronics
ShipRegistered
ShipDocked
CargoLoaded
ShipDeparted
ShipDocked
CargoUnloaded
Pacific Explorer: registered, carrying nothing
Pacific Explorer: docked in Singapore, carrying nothing
Pacific Explorer: docked in Singapore, carrying 500 electronics
Pacific Explorer: at sea, carrying 500 electronics
Pacific Explorer: docked in Hong Kong, carrying 500 electronics
Pacific Explorer: docked in Hong Kong, carrying 300 electronics
Ship is not docked at any port
7 events, live, the same as the log has
exit codes 0 and 0
"""


def test_make_demo_tells_both_stories_and_ends_well() -> None:
    told = subprocess.run(
        ["make", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert told.returncode == 0, told.stderr
    rest = told.stdout
    for sentence in STORIES.strip().splitlines():
        assert sentence in rest, f"{sentence!r} is missing, or in another order, in:\n{told.stdout}"
        rest = rest.partition(sentence)[2]
