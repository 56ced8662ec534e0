"""How a personal text is encrypted: in the form that `personal.proto` describes, for ever."""

import base64
import hashlib
import hmac
import secrets
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import Message

from shared.errors import DataLoss
from shared.log.log import AggregateKey
from shared.personal.fields import personal_fields

MARK = "\x01sealed:"
"""No command can bring about a text that begins so: it is not to have control characters."""

KEY_BYTES = 32
NONCE_BYTES = 12
PADDED_TO = 32
"""Bytes: of a text's length no more is to be seen than this."""

DESTROYED = b""
"""In the place of a key."""

Keys = Mapping[AggregateKey, bytes]
"""The key of each aggregate, DESTROYED, or none, if there never was one."""

_VERSION = struct.Struct(">q")
_FINGERPRINT = b"\x01"
"""What a fingerprint begins with that is keyed, which also makes it longer than one that is not."""


class Place(NamedTuple):
    """Where a personal text is recorded. Encrypted there, it can be read nowhere else."""

    aggregate: AggregateKey
    version: int
    field: str


def new_key() -> bytes:
    """A key that nobody else has."""
    return secrets.token_bytes(KEY_BYTES)


def is_sealed(text: str) -> bool:
    """Whether a text is an encrypted one."""
    return text.startswith(MARK)


def sealed(text: str, place: Place, key: bytes) -> str:
    """The text encrypted."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    content = text.encode()
    content += bytes(-len(content) % PADDED_TO)
    encrypted = AESGCM(key).encrypt(nonce, content, _associated(place))
    encoded = base64.urlsafe_b64encode(_VERSION.pack(place.version) + nonce + encrypted)
    return MARK + encoded.rstrip(b"=").decode()


def seal(payload: Message, aggregate: AggregateKey, version: int, key: bytes) -> Message:
    """The payload of an event with its personal fields encrypted: a copy, if it has any.

    Raises:
        TypeError: one is encrypted already: a decision took it from the state.
    """
    fields = personal_fields(type(payload))
    if not fields:
        return payload
    copy = type(payload)()
    copy.CopyFrom(payload)
    for field in fields:
        text = getattr(copy, field)
        if is_sealed(text):
            raise TypeError(f"{field} of {copy.DESCRIPTOR.full_name} is what the state has")
        if text:
            setattr(copy, field, sealed(text, Place(aggregate, version, field), key))
    return copy


def sealed_fields(message: Message) -> Iterator[str]:
    """The names of those personal fields that are encrypted."""
    return (field for field in personal_fields(type(message)) if is_sealed(getattr(message, field)))


def unseal_event(payload: Message, aggregate: AggregateKey, version: int, key: bytes) -> None:
    """Decrypts the payload of an event in place; with DESTROYED, what is encrypted becomes empty.

    Raises:
        DataLoss: LOG_CORRUPT: it was not encrypted there, or not with this key.
    """
    for field in sealed_fields(payload):
        _unseal(payload, field, Place(aggregate, version, field), key)


def unseal_state(state: Any, aggregate: AggregateKey, key: bytes) -> None:
    """The same of an aggregate's state, which has texts of events up to its version."""
    for field in sealed_fields(state):
        origin = _origin(getattr(state, field))
        if not 0 < origin <= state.version:
            raise _not_from_there()
        _unseal(state, field, Place(aggregate, origin, field), key)


def keyed_fingerprint(fingerprint: bytes, key: bytes) -> bytes:
    """The fingerprint of a command that has personal fields, as its events have it.

    As a mere digest it would tell whether a name that somebody guesses is the one that was erased.
    """
    return _FINGERPRINT + hmac.digest(key, fingerprint, hashlib.sha256)


def is_keyed(fingerprint: bytes) -> bool:
    """Whether it is a fingerprint of that kind."""
    return len(fingerprint) > hashlib.sha256().digest_size


def _unseal(message: Message, field: str, place: Place, key: bytes) -> None:
    text = ""
    if key != DESTROYED:
        text = _unsealed(getattr(message, field), place, key)
    setattr(message, field, text)


def _unsealed(text: str, place: Place, key: bytes) -> str:
    data = _decoded(text)[_VERSION.size :]
    nonce, encrypted = data[:NONCE_BYTES], data[NONCE_BYTES:]
    try:
        content = AESGCM(key).decrypt(nonce, encrypted, _associated(place))
    except (InvalidTag, ValueError) as error:
        raise _not_from_there() from error
    return content.rstrip(b"\0").decode()


def _origin(text: str) -> int:
    """The version of the event that a text is from, as it says itself."""
    data = _decoded(text)
    if len(data) < _VERSION.size:
        raise _not_from_there()
    version: int = _VERSION.unpack_from(data)[0]
    return version


def _decoded(text: str) -> bytes:
    encoded = text.removeprefix(MARK)
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise _not_from_there() from error


def _associated(place: Place) -> bytes:
    return "\0".join([*place.aggregate, str(place.version), place.field]).encode()


def _not_from_there() -> DataLoss:
    return DataLoss("LOG_CORRUPT", "A personal field is not what was encrypted there")
