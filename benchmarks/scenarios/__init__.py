"""What can be measured; a new group is added to the list here."""

from benchmarks.scenario import Group
from benchmarks.scenarios.bulk import BULK
from benchmarks.scenarios.commands import COMMANDS
from benchmarks.scenarios.growth import GROWTH
from benchmarks.scenarios.neighbours import NEIGHBOURS
from benchmarks.scenarios.peers import PEERS
from benchmarks.scenarios.postgres import POSTGRES
from benchmarks.scenarios.queries import QUERIES
from benchmarks.scenarios.replica import REPLICA
from benchmarks.scenarios.soak import SOAK
from benchmarks.scenarios.startup import STARTUP
from benchmarks.scenarios.subscribers import SUBSCRIBERS
from benchmarks.scenarios.visibility import VISIBILITY

GROUPS: tuple[Group, ...] = (
    COMMANDS,
    BULK,
    PEERS,
    POSTGRES,
    REPLICA,
    QUERIES,
    SUBSCRIBERS,
    VISIBILITY,
    NEIGHBOURS,
    STARTUP,
    GROWTH,
    SOAK,
)
