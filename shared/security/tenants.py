"""Whose data a call is about: in its header, never in its message."""

from collections.abc import Iterable
from functools import lru_cache

from shared.checks import id_violations
from shared.errors import InvalidFields, invalid_field

TENANT_HEADER = "x-tenant-id"
DEFAULT_TENANT = "default"
EVERY_TENANT = "*"

Headers = Iterable[tuple[str, str | bytes]]


def named_tenant(headers: Headers) -> str | None:
    """The tenant that the headers of a call name; None: they name none.

    Raises:
        InvalidFields: it is no tenant's id.
    """
    given = [value for name, value in headers if name == TENANT_HEADER]
    if not given:
        return None
    if len(given) > 1:
        raise invalid_field(TENANT_HEADER, "must be given once")
    return _checked(given[0])


@lru_cache(maxsize=10_000)
def _checked(tenant_id: str | bytes) -> str:
    if isinstance(tenant_id, bytes) or not tenant_id:
        raise invalid_field(TENANT_HEADER, "must not be empty")
    if not tenant_id.isascii():
        # Headers are: of what else comes gRPC makes the same text of different bytes.
        raise invalid_field(TENANT_HEADER, "must be ASCII")
    if violations := id_violations(TENANT_HEADER, tenant_id):
        raise InvalidFields(*violations)
    return tenant_id
