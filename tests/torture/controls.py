"""Runs against services that are known to be wrong: the checker has to find each of them out."""

from dataclasses import dataclass, replace

from tests.torture.faults import FAULTS, Fault, Patience
from tests.torture.service import DISK_VARIABLE, SERVICE_VARIABLE, WEAKNESS_VARIABLE
from tests.torture.stage import Launch


@dataclass(frozen=True)
class Control:
    """A weakness, the fault under which it shows, and the invariants that it breaks.

    Args:
        fault: with the weak service in it, and the weakness as its name.
        breaks: one of these at least has to be complained of.
    """

    fault: Fault
    breaks: frozenset[int]


PATIENCE = Patience(recovery_s=3, everything_s=1.5)
"""What is wrong may never recover, and keeps some things from ever occurring."""


def _control(weakness: str, service: str, fault: str, *breaks: int) -> Control:
    [known] = [each for each in FAULTS if each.name == fault]
    module = f"{service}_service"
    env = {SERVICE_VARIABLE: module, WEAKNESS_VARIABLE: weakness, DISK_VARIABLE: "1"}
    launch = Launch("tests.torture.service", env)
    weak = replace(known, name=weakness, patience=PATIENCE)
    if service == "command":
        return Control(replace(weak, command=launch), frozenset(breaks))
    return Control(replace(weak, query=launch), frozenset(breaks))


CONTROLS = (
    _control("synchronous off", "command", "power loss of command", 1),
    _control("receipts before commit", "command", "kill command", 1),
    _control("idempotency off", "command", "nothing", 9),
    _control("checkpoint apart", "query", "kill query", 8, 10),
)
