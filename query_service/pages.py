"""Pages of a list: a cursor says after which key the next one starts, so changes do no harm."""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Any, TypeVar

from google.protobuf.message import Message

from shared.checks import Check, at_least, between
from shared.errors import invalid_field
from shared.log.log import MAX_PAGE_BYTES

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
MAX_TOKEN_CHARACTERS = 2000
CHECKSUM_BYTES = 8
MAX_INT = 2**63 - 1

PAGE_CHECKS: tuple[Check, ...] = (
    between("page_size", 0, MAX_PAGE_SIZE),
    at_least("min_position", 0),
)

Row = TypeVar("Row")
Key = TypeVar("Key", str, int)


class Cursor:
    """Where a list request goes on.

    A token says only that, and for which request it was made. Who makes one up sees nothing that
    the list would not have shown.

    Args:
        request: with page_size and page_token; its other fields select.
        tenant_id: whose list it is.
        first: the key before all others.

    Raises:
        InvalidFields: the token is none, or was made for another list or selection.
    """

    def __init__(self, request: Any, tenant_id: str, first: Any) -> None:
        self.size: int = request.page_size or DEFAULT_PAGE_SIZE
        self._binding = _binding(request, tenant_id)
        self.after = self._read(request.page_token, type(first)) if request.page_token else first

    def token(self, key: str | int) -> str:
        """The token of the page after this key."""
        content = str(key).encode()
        return base64.urlsafe_b64encode(self._checksum(content) + content).decode()

    def page(self, rows: Iterable[tuple[Any, bytes]]) -> tuple[list[bytes], str]:
        """The rows of one page, and the token of the next; empty: this is the last.

        Args:
            rows: keys and contents, at least one more than a page has if there are as many.
        """
        contents: list[bytes] = []
        size = 0
        last: Any = None
        for key, content in rows:
            if len(contents) == self.size or size >= MAX_PAGE_BYTES:
                return contents, self.token(last)
            contents.append(content)
            size += len(content)
            last = key
        return contents, ""

    def _read(self, token: str, key_type: type) -> Any:
        try:
            raw = base64.b64decode(token[:MAX_TOKEN_CHARACTERS], altchars=b"-_", validate=True)
            content = raw[CHECKSUM_BYTES:]
            key = key_type(content.decode())
        except (binascii.Error, ValueError) as error:
            raise invalid_field("page_token", "is no page token") from error
        if raw[:CHECKSUM_BYTES] != self._checksum(content) or not _is_storable(key):
            raise invalid_field("page_token", "is not of this list")
        return key

    def _checksum(self, content: bytes) -> bytes:
        return hashlib.sha256(self._binding + content).digest()[:CHECKSUM_BYTES]


def _is_storable(key: str | int) -> bool:
    return isinstance(key, str) or 0 <= key <= MAX_INT


def _binding(request: Message, tenant_id: str) -> bytes:
    """Whose list it is and what selects it, without what may differ from page to page."""
    selection = type(request)()
    selection.CopyFrom(request)
    for field in ("page_size", "page_token", "min_position"):
        selection.ClearField(field)
    selection.DiscardUnknownFields()
    name = f"{tenant_id}\0{request.DESCRIPTOR.full_name}\0".encode()
    return name + selection.SerializeToString(deterministic=True)
