"""Every bad request of an RPC: a valid one in which one thing is wrong."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from google.protobuf.descriptor import Descriptor, MethodDescriptor
from grpc import StatusCode

from tests.fuzzing import wire
from tests.fuzzing.answers import Allowed
from tests.fuzzing.bad_values import (
    INVALID,
    MALFORMED,
    SOMETIMES_TEXT,
    TOO_LONG_FOR_AN_ID,
    bad_values,
    shown,
)
from tests.fuzzing.contract import (
    FOR_EVERY_TENANT,
    TENANT_HEADER,
    is_of_a_tenant,
    is_ours,
    name_of,
    names,
    paths,
    tenant_of,
)
from tests.fuzzing.valid import spoilt, valid

WAITING = {"min_position", "position", "version"}
"""Fields of queries, by their last name, that make an RPC wait for what has not happened yet."""

ANY_HEADER = frozenset({TENANT_HEADER})

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Case:
    """One bad request.

    Args:
        field: what is bad, as a service names it; empty: the message as a whole.
        label: how.
        request: its bytes.
        allowed: what the answer may be.
        metadata: its headers.
    """

    field: str
    label: str
    request: bytes
    allowed: Allowed
    metadata: Metadata = ()

    def __str__(self) -> str:
        return f"{self.field or 'request'}: {self.label}"


def cases(method: MethodDescriptor) -> Iterator[Case]:
    """All that is tried with an RPC."""
    request = method.input_type
    metadata = ((TENANT_HEADER, tenant_of(request)),)
    for case in (*cases_of_fields(request), *_of_messages(request)):
        yield replace(case, metadata=metadata, allowed=_allowed(method, case.allowed))
    for case in _of_headers(method):
        yield replace(case, allowed=_allowed(method, case.allowed))


def _allowed(method: MethodDescriptor, allowed: Allowed) -> Allowed:
    """What a library thinks of the values in its messages, and how it says so, is its affair."""
    if is_ours(method) or allowed.reason == MALFORMED:
        return allowed
    return replace(allowed, reason=None, plain=frozenset({StatusCode.NOT_FOUND}))


def cases_of_fields(request: Descriptor) -> Iterator[Case]:
    """A bad value in each field."""
    for path in paths(request):
        name = name_of(path)
        waits = path[-1].name in WAITING
        for bad in bad_values(path[-1], request):
            fields = {name}
            if path[-1].containing_oneof is not None and bad.reason is None:
                # Its oneof may now be empty, for which the message that has it is to blame.
                fields.add(name_of(path[:-1]))
            allowed = Allowed(frozenset(fields), bad.reason, waits and bad.reason is None)
            yield Case(name, bad.label, spoilt(request, path, bad.record), allowed)


def _of_messages(request: Descriptor) -> Iterator[Case]:
    message = valid(request).SerializeToString()
    anything = Allowed(names(request))
    malformed = replace(anything, reason=MALFORMED)
    yield Case("", "empty", b"", anything)
    for label, record in wire.UNKNOWN_FIELDS.items():
        yield Case("", label, message + record, anything)
    for label, record in wire.BROKEN.items():
        yield Case("", label, message + record, malformed)
    for size in range(1, len(message)):
        yield Case("", f"{size} of {len(message)} bytes", message[:size], anything)
    unknown = wire.delimited(wire.UNKNOWN_NUMBER, bytes(1 << 20))
    yield Case("", "a megabyte that nobody knows", message + unknown, anything)
    choose = random.Random(request.full_name)  # noqa: S311  # no secret
    for size in (1, 2, 3, 10, 100, 1000):
        noise = choose.randbytes(size)
        yield Case("", f"{size} bytes of noise", noise, anything)
        yield Case("", f"{size} bytes of noise at the end", message + noise, anything)


def _of_headers(method: MethodDescriptor) -> Iterator[Case]:
    """What a client of gRPC can send; see `http2` for what it cannot."""
    request = valid(method.input_type).SerializeToString()
    anything = Allowed(ANY_HEADER)
    never = Allowed(ANY_HEADER, INVALID if is_of_a_tenant(method) else None)
    every = anything if method.full_name in FOR_EVERY_TENANT else never
    for text in ("", "x" * 5000, *filter(str.isascii, TOO_LONG_FOR_AN_ID)):
        yield Case(TENANT_HEADER, shown(text), request, never, ((TENANT_HEADER, text),))
    twice = ((TENANT_HEADER, "one"), (TENANT_HEADER, "two"))
    yield Case(TENANT_HEADER, "twice", request, never, twice)
    yield Case(TENANT_HEADER, "every tenant", request, every, ((TENANT_HEADER, "*"),))
    for text in SOMETIMES_TEXT:
        if text.isascii() and text not in {"", "*"} and len(text) <= 128:
            yield Case(TENANT_HEADER, shown(text), request, anything, ((TENANT_HEADER, text),))
    yield Case(TENANT_HEADER, "not given", request, anything)
