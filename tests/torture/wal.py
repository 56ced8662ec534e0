"""What of SQLite's write-ahead log counts: see "WAL File Format" in SQLite's documentation."""

import struct
from pathlib import Path

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24


def frames(wal: Path) -> list[slice]:
    """Where the pages stand that a database takes from its WAL.

    Once it is moved into the database the file is written from its beginning again, and what it
    held before is still there behind: such frames have another salt.
    """
    content = wal.read_bytes()
    if len(content) < HEADER_BYTES:
        return []
    page_bytes, salt = struct.unpack_from(">8xI4x8s", content)
    found = []
    start = HEADER_BYTES
    while content[start + 8 : start + 16] == salt:
        start += FRAME_HEADER_BYTES
        found.append(slice(start, start + page_bytes))
        start += page_bytes
    return found
