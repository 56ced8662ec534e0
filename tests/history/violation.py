"""What the checker finds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept.

    Args:
        invariant: its number, 1 to 14; see `tests.history.checker`.
        sentence: what happened, for people.
        positions: of the events involved, as far as they are known.
    """

    invariant: int
    sentence: str
    positions: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"Invariant {self.invariant}: {self.sentence}"
