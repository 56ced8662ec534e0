"""The end of a service."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Drain:
    """The end of a service: what is begun is finished, and streams are told to end."""

    def __init__(self) -> None:
        self.is_on = False
        self._callbacks: set[Callable[[], object]] = set()

    def start(self) -> None:
        """Calls everyone who asked."""
        self.is_on = True
        for callback in list(self._callbacks):
            callback()

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Has the callback called when the end comes, or at once if it has come."""
        self._callbacks.add(callback)
        try:
            if self.is_on:
                callback()
            yield
        finally:
            self._callbacks.discard(callback)
