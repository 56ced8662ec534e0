"""Pieces of the log as they are stored, and pages of events taken from them."""

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from zlib import crc32

from shared.errors import DataLoss
from shared.log.log import MAX_PAGE_BYTES, AggregateKey, EventFilter, Page
from shared.log.selection import Selection
from tidemark.internal.v1.stored_pb2 import StoredSubscribeResponse

CHUNK_BYTES = 8 << 10
"""A chunk ends with the record that reaches this: what one event costs to find is to parse one."""

COLUMNS = "position, first, digest, tenant_id, records, checksum"

Placed = tuple[AggregateKey, int, int, bytes]
"""An event: its aggregate, version, position and record."""


class Chunk:
    """Consecutive records, without a gap between their positions.

    Args:
        position: of the last one.
        first: position of the first one.
        digest: of the log up to the last one.
        tenant_id: whose they are; None: more than one tenant's.
        encoded: as they are stored, a StoredSubscribeResponse without a checkpoint.
    """

    __slots__ = ("_records", "digest", "encoded", "first", "position", "tenant_id")

    def __init__(
        self, position: int, first: int, digest: bytes, tenant_id: str | None, encoded: bytes
    ) -> None:
        self.position = position
        self.first = first
        self.digest = digest
        self.tenant_id = tenant_id
        self.encoded = encoded
        self._records: list[bytes] | None = None

    @classmethod
    def of(
        cls, records: list[bytes], position: int, digest: bytes, tenant_ids: set[str]
    ) -> "Chunk":
        """A chunk of some tenants' records that ends at a position with a digest."""
        [tenant_id] = tenant_ids if len(tenant_ids) == 1 else [None]
        encoded = StoredSubscribeResponse(events=records).SerializeToString()
        chunk = cls(position, position - len(records) + 1, digest, tenant_id, encoded)
        chunk._records = records
        return chunk

    @classmethod
    def stored(
        cls,
        position: int,
        first: int,
        digest: bytes,
        tenant_id: str | None,
        encoded: bytes,
        checksum: int,
    ) -> "Chunk":
        """One that comes from the database, where SQLite does not see that a bit is not as it was.

        Raises:
            DataLoss: LOG_CORRUPT.
        """
        chunk = cls(position, first, digest, tenant_id, encoded)
        try:
            is_right = chunk._checksum == checksum
        except TypeError:
            # Of a page that is lost, SQLite can find nothing where there has to be something.
            is_right = False
        if not is_right:
            raise DataLoss(
                "LOG_CORRUPT",
                f"The events at positions {first} to {position} are not what was written",
            )
        return chunk

    @property
    def _checksum(self) -> int:
        """Cheaper by far than the digest, and enough against what happens by chance."""
        where = f"{self.position} {self.first} {self.tenant_id}".encode()
        return crc32(self.encoded, crc32(self.digest, crc32(where)))

    @property
    def records(self) -> list[bytes]:
        """One for each position.

        Raises:
            DataLoss: LOG_CORRUPT.
        """
        if self._records is None:
            self._records = list(StoredSubscribeResponse.FromString(self.encoded).events)
            if len(self._records) != self.position - self.first + 1:
                raise self._damage()
        return self._records

    def _damage(self) -> DataLoss:
        return DataLoss("LOG_CORRUPT", f"Events before position {self.position} are missing")

    @property
    def row(self) -> tuple[int, int, bytes, str | None, bytes, int]:
        """Its columns."""
        return (
            self.position,
            self.first,
            self.digest,
            self.tenant_id,
            self.encoded,
            self._checksum,
        )

    def record(self, position: int) -> bytes:
        """The record at one of its positions."""
        if self._records is not None:
            return self._records[position - self.first]
        events = StoredSubscribeResponse.FromString(self.encoded).events
        if len(events) != self.position - self.first + 1:
            raise self._damage()
        return events[position - self.first]


def chunked(placed: Iterable[Placed], digest: bytes) -> Iterator[Chunk]:
    """Makes chunks of events.

    Args:
        placed: what follows in the log.
        digest: of the log before them.
    """
    records: list[bytes] = []
    tenant_ids: set[str] = set()
    size = last = 0
    for key, _, position, record in placed:
        if records and (size >= CHUNK_BYTES or position != last + 1):
            yield Chunk.of(records, last, digest, tenant_ids)
            records, tenant_ids, size = [], set(), 0
        digest = sha256(digest + record).digest()
        records.append(record)
        tenant_ids.add(key.tenant_id)
        size += len(record)
        last = position
    if records:
        yield Chunk.of(records, last, digest, tenant_ids)


def page_of(
    chunks: Iterable[Chunk],
    after: int,
    until: int,
    limit: int,
    event_filter: EventFilter,
    digest_at: Callable[[int], bytes],
) -> Page:
    """The next page of the log.

    Args:
        chunks: by position, from the first one with an event after `after`.
        after: the position to go on from.
        until: the last one to look at.
        limit: the most records.
        event_filter: what to select.
        digest_at: the digest of the log up to a position.
    """
    selection = Selection(event_filter)
    records: list[bytes] = []
    size = 0
    reached, digest = after, b""
    for chunk in chunks:
        if chunk.first > until:
            break
        is_whole = after < chunk.first and chunk.position <= until
        has_room = len(records) + chunk.position - chunk.first < limit
        if is_whole and has_room and size + len(chunk.encoded) < MAX_PAGE_BYTES:
            selected = _selected(selection, chunk)
            records += selected
            size += sum(map(len, selected))
            reached, digest = chunk.position, chunk.digest
            if len(records) == limit:
                return Page(records, reached, digest or digest_at(reached))
            continue
        for position, record in enumerate(chunk.records, chunk.first):
            if not after < position <= until or not selection.has(record):
                continue
            records.append(record)
            size += len(record)
            if len(records) == limit or size >= MAX_PAGE_BYTES:
                return Page(records, position, digest_at(position))
    return Page(records, until, digest if reached == until and digest else digest_at(until))


def _selected(selection: Selection, chunk: Chunk) -> list[bytes]:
    if selection.has_all_of(chunk.tenant_id):
        return chunk.records
    if not selection.may_have(chunk.encoded):
        return []
    return [record for record in chunk.records if selection.has(record)]
