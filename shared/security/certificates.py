"""Clients' certificates: who their owners are, as a file says."""

import tomllib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cryptography import x509

from shared.errors import Unauthenticated
from shared.security.identity import Identity, Scope
from shared.security.refreshed import Refreshed

MAX_KNOWN = 10_000
SPIFFE = "spiffe://"

Identities = Mapping[str, Identity]


class Certificates:
    """Tells who has a certificate, which TLS has verified.

    Args:
        file: TOML; a table by the name of each owner, which is a SPIFFE id or, in a certificate
            without one, the subject as RFC 4514 writes it. In each, `tenants` and `scopes`.
    """

    def __init__(self, file: str) -> None:
        self.identities: Refreshed[Identities] = Refreshed(file, identities_of)
        self._known: OrderedDict[bytes, Identity] = OrderedDict()
        self._known_by: Identities | None = None

    def identity(self, certificate: bytes) -> Identity:
        """Who has a certificate, given as PEM.

        Raises:
            Unauthenticated: CERTIFICATE_UNKNOWN.
        """
        if self._known_by is not self.identities.value:
            self._known.clear()
            self._known_by = self.identities.value
        identity = self._known.get(certificate)
        if identity is None:
            identity = self._identity(x509.load_pem_x509_certificate(certificate))
            self._known[certificate] = identity
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return identity

    def _identity(self, certificate: x509.Certificate) -> Identity:
        identity = self.identities.value.get(owner_of(certificate))
        if identity is None:
            raise Unauthenticated("CERTIFICATE_UNKNOWN", "The certificate's owner is not known")
        ends = certificate.not_valid_after_utc.timestamp()
        return replace(identity, expires_at=ends, credentials="certificate")


def owner_of(certificate: x509.Certificate) -> str:
    """The SPIFFE id; without one, the subject. More than one is none (SPIFFE X509-SVID, 2)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return certificate.subject.rfc4514_string()
    uris: Sequence[str] = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) == 1 and uris[0].startswith(SPIFFE):
        return uris[0]
    return "" if uris else certificate.subject.rfc4514_string()


def identities_of(content: bytes) -> Identities:
    """Everybody whom a file names.

    Raises:
        ValueError: the file says something else.
    """
    identities: dict[str, Identity] = {}
    for owner, granted in tomllib.loads(content.decode()).items():
        match granted:
            case {"tenants": list(tenants), "scopes": list(scopes), **others} if not others:
                names = frozenset(map(str, tenants))
                identities[owner] = Identity(owner, names, frozenset(map(Scope, scopes)))
            case _:
                raise ValueError(f"{owner!r} has to have lists of tenants and scopes, no more")
    return identities
