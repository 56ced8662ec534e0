"""What points at events, in the order of the events, to be compared with them one by one."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from shared.sqlite import UNREADABLE, damage_in
from shared.verification import Find

Entry = TypeVar("Entry")


class Pointers(Generic[Entry]):
    """One part of the index, along with one walk over the log.

    Args:
        rows: positions, and what points at each, in their order.
        say: an entry, for people.
        find: told what points at no event, or cannot be read.
    """

    def __init__(
        self, rows: Iterable[tuple[int, Entry]], say: Callable[[Entry], str], find: Find
    ) -> None:
        self.count = 0
        """Of those that were compared and are right."""
        self._rows = iter(rows)
        self._say = say
        self._find = find
        self._is_readable = True
        self._next = self._read()

    def compare(self, position: int, expected: Entry | None) -> None:
        """Compares what points at an event with what has to; None: nothing."""
        found = self.take(position)
        if not self._is_readable:
            return
        if expected is not None:
            if expected in found:
                found.remove(expected)
                self.count += 1
            else:
                self._tell(position, expected, "is missing, or points elsewhere")
        for entry in found:
            self._tell(position, entry, "points here, to something else")

    def take(self, position: int) -> list[Entry]:
        """What points at an event; to be asked for in the order of their positions."""
        if self._next is None or self._next[0] > position:
            return []
        self.end(position - 1)
        found = []
        while self._next is not None and self._next[0] == position:
            found.append(self._next[1])
            self._next = self._read()
        return found

    def skip(self, position: int) -> None:
        """Passes what points up to a position, where what it points at cannot be read."""
        while self._next is not None and self._next[0] <= position:
            self._next = self._read()

    def end(self, position: int | None = None) -> None:
        """Tells what is left up to a position, or at all: it points at no event."""
        while self._next is not None and (position is None or self._next[0] <= position):
            self._tell(*self._next, "points here, where there is no event")
            self._next = self._read()

    def _tell(self, position: int, entry: Entry, what: str) -> None:
        self._find(f"Position {position}: {self._say(entry)} {what}")

    def _read(self) -> tuple[int, Entry] | None:
        try:
            return next(self._rows, None)
        except UNREADABLE as error:
            self._is_readable = False
            self._find(f"The index cannot be read: {damage_in(error)}")
            return None
