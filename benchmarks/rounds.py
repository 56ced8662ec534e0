"""Figures that each round has of its own."""

import statistics


class Notes:
    """Collects them, by their name and unit."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        """Notes the value of one round."""
        self._values.setdefault(name, []).append(value)

    def medians(self) -> dict[str, float]:
        """The median of each."""
        return {name: statistics.median(values) for name, values in self._values.items()}
