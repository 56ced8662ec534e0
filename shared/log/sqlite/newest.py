"""The newest pieces of the log in memory: live readers need not ask the database."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from shared.log.log import EventFilter, Page, chain
from shared.log.sqlite.chunks import Chunk, page_of

MAX_BYTES = 16 << 20
OVERHEAD_BYTES = 1000
"""What a chunk takes beside its records, about; those it has twice."""

MAX_EVENTS_AT_ONCE = 1000
"""Looked at by one read in the event loop."""


class Newest:
    """Consecutive chunks up to the head.

    Args:
        chunks: the newest ones there are.
        digest: of the log before them.
    """

    def __init__(self, chunks: Sequence[Chunk], digest: bytes) -> None:
        self._chunks: list[Chunk] = []
        self._size = 0
        self._digest_before = digest
        self.add(chunks)

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Adds what was written, and lets go of the oldest."""
        self._chunks += chunks
        self._size += sum(map(_size, chunks))
        if self._size > 2 * MAX_BYTES:
            self._drop()

    def reaches_back_to(self, position: int) -> bool:
        """Whether every event after a position is here."""
        return bool(self._chunks) and self._chunks[0].first - 1 <= position

    def page(self, after: int, until: int, limit: int, event_filter: EventFilter) -> Page:
        """The next page, which may end early; see `page_of`."""
        until = min(until, after + MAX_EVENTS_AT_ONCE)
        return page_of(self._after(after), after, until, limit, event_filter, self._digest_at)

    def _after(self, position: int) -> Iterator[Chunk]:
        for index in range(self._index(position), len(self._chunks)):
            yield self._chunks[index]

    def _index(self, position: int) -> int:
        """Of the first chunk that has an event after a position."""
        return bisect_right(self._chunks, position, key=lambda chunk: chunk.position)

    def _digest_at(self, position: int) -> bytes:
        index = self._index(position)
        digest = self._chunks[index - 1].digest if index else self._digest_before
        if index < len(self._chunks):
            chunk = self._chunks[index]
            for record in chunk.records[: max(position - chunk.first + 1, 0)]:
                digest = chain(digest, record)
        return digest

    def _drop(self) -> None:
        count = 0
        while self._size > MAX_BYTES:
            self._size -= _size(self._chunks[count])
            count += 1
        self._digest_before = self._chunks[count - 1].digest
        del self._chunks[:count]


def _size(chunk: Chunk) -> int:
    return OVERHEAD_BYTES + 2 * len(chunk.encoded)
