"""Who a caller is, and what there is to be allowed."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Literal

from shared.checks import MAX_ID_BYTES, id_violations
from shared.errors import PermissionDenied, Unauthenticated, invalid_field
from shared.security.tenants import EVERY_TENANT, TENANT_HEADER

MAX_TENANTS = 1000


class Scope(StrEnum):
    """What an identity may have. None implies another."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    KEYS = "keys"


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody whose credentials are good.

    Args:
        subject: the name, as events say who caused them.
        tenants: those whose data it may touch; `*` with the scope admin: every one.
        scopes: what it may do there.
        expires_at: when the credentials end, in seconds since 1970.
        credentials: what they are: a token, or a certificate.

    Raises:
        ValueError: the subject or a tenant is no id.
    """

    subject: str
    tenants: frozenset[str]
    scopes: frozenset[Scope]
    expires_at: float = inf
    credentials: Literal["token", "certificate"] = "token"

    def __post_init__(self) -> None:
        for name in (self.subject, *self.tenants):
            if not name or id_violations("", name):
                raise ValueError(f"an id has 1 to {MAX_ID_BYTES} bytes and no control characters")
        if len(self.tenants) > MAX_TENANTS:
            raise ValueError(f"there are more than {MAX_TENANTS} tenants")

    @property
    def expired(self) -> Unauthenticated:
        """The answer once they have ended: TOKEN_EXPIRED or CERTIFICATE_EXPIRED."""
        reason = f"{self.credentials.upper()}_EXPIRED"
        return Unauthenticated(reason, f"The {self.credentials} has expired")

    def check_tenant(self, tenant_id: str) -> None:
        """Looks whether the tenant is one of its own, whether or not there is such a tenant.

        Raises:
            PermissionDenied: TENANT_FORBIDDEN.
        """
        if tenant_id in self.tenants and tenant_id != EVERY_TENANT:
            return
        if not (EVERY_TENANT in self.tenants and Scope.ADMIN in self.scopes):
            raise PermissionDenied("TENANT_FORBIDDEN", "These credentials are not for this tenant")

    def only_tenant(self) -> str:
        """The tenant of a call that names none.

        Raises:
            InvalidFields: there are several to choose from.
            PermissionDenied: TENANT_FORBIDDEN: there is none.
        """
        if not self.tenants:
            raise PermissionDenied("TENANT_FORBIDDEN", "These credentials are for no tenant")
        if len(self.tenants) > 1 or EVERY_TENANT in self.tenants:
            raise invalid_field(TENANT_HEADER, "must name one of the tenants of these credentials")
        [tenant_id] = self.tenants
        return tenant_id


def scopes_of(names: Collection[str]) -> frozenset[Scope]:
    """Those scopes that mean something here."""
    return frozenset(scope for scope in Scope if scope in names)
