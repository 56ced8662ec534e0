"""What can be measured; a new group is added to the list here."""

from benchmarks.scenario import Group
from benchmarks.scenarios.commands import COMMANDS

GROUPS: tuple[Group, ...] = (COMMANDS,)
