"""Every kind of aggregate that there is: a module in this package is all that makes one known."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from shared import aggregates
from shared.aggregates.aggregate import Aggregate


def known_aggregates() -> list[Aggregate[Any]]:
    """Those that the modules of this package define, by name.

    For what has to understand every event, whichever service it belongs to. A service says itself
    which it serves.
    """
    found = {
        value.name: value
        for module in iter_modules(aggregates.__path__, f"{aggregates.__name__}.")
        for value in vars(import_module(module.name)).values()
        if isinstance(value, Aggregate)
    }
    return [found[name] for name in sorted(found)]
