"""Makes credentials to try the services with: `python -m examples.dev_credentials [FOLDER]`.

An authority, certificates from it, a key for tokens and a token, all in one folder that only its
owner can read. They are for development: whoever has the folder is everybody.
"""

import ipaddress
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jwt.algorithms import ECAlgorithm

FOLDER = Path("dev-credentials")
LIFETIME = timedelta(days=30)
ISSUER = "https://issuer.tidemark.example"
AUDIENCE = "tidemark"
REPLICA = "spiffe://tidemark.example/replica"
CLIENT = "spiffe://tidemark.example/client"
DEVELOPER = "developer"
TENANTS = ("acme",)
SCOPES = ("read", "write", "admin")

IDENTITIES = f"""\
# Who the owners of certificates are: their SPIFFE id or subject, their tenants, and their scopes.

["{REPLICA}"]
tenants = ["*"]
scopes = ["read", "admin", "keys"]
"""


class Authority:
    """Signs certificates of its own.

    Args:
        name: its common name.
    """

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.certificate = _pem(self._signed(self._name, self._key.public_key(), (), is_ca=True))
        """As PEM."""

    def issue(
        self, name: str, *alternatives: x509.GeneralName, lifetime: timedelta = LIFETIME
    ) -> tuple[bytes, bytes]:
        """A certificate and its key, as PEM.

        Args:
            name: the common name.
            alternatives: what else its owner is called.
            lifetime: of the certificate.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        signed = self._signed(
            _named(name), key.public_key(), alternatives, is_ca=False, lifetime=lifetime
        )
        return _pem(signed), private_pem(key)

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        alternatives: Sequence[x509.GeneralName],
        *,
        is_ca: bool,
        lifetime: timedelta = LIFETIME,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
        if not is_ca:
            uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        return builder.sign(self._key, hashes.SHA256())


class TokenIssuer:
    """Signs tokens with a key of its own.

    Args:
        key_id: the key's name in the key set.
    """

    def __init__(self, key_id: str, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self.key_id = key_id
        self.key = key or ec.generate_private_key(ec.SECP256R1())

    @property
    def public_jwk(self) -> dict[str, Any]:
        """The key that verifies its tokens."""
        public = ECAlgorithm(ECAlgorithm.SHA256).to_jwk(self.key.public_key(), as_dict=True)
        return {**public, "kid": self.key_id, "alg": "ES256", "use": "sig"}

    def token(self, **claims: Any) -> str:
        """A token with these claims; those of a developer's, where none are given."""
        return jwt.encode(
            {**developer_claims(), **claims},
            self.key,
            algorithm="ES256",
            headers={"kid": self.key_id},
        )


def developer_claims() -> dict[str, Any]:
    """Who the developer's token says they are."""
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": DEVELOPER,
        "exp": int(time.time() + LIFETIME.total_seconds()),
        "tenants": list(TENANTS),
        "scope": " ".join(SCOPES),
    }


def server_names() -> tuple[x509.GeneralName, ...]:
    """How a server of this machine is called."""
    return (
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    )


def make(folder: Path = FOLDER) -> None:
    """Makes everything anew."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    authority = Authority("Tidemark development")
    issuer = TokenIssuer("dev")
    files: Mapping[str, bytes | str] = {
        "ca.pem": authority.certificate,
        **_pair("server", *authority.issue("localhost", *server_names())),
        **_pair("replica", *authority.issue("replica", x509.UniformResourceIdentifier(REPLICA))),
        **_pair("client", *authority.issue("client", x509.UniformResourceIdentifier(CLIENT))),
        "identities.toml": IDENTITIES,
        "jwks.json": jwk_set(issuer),
        "issuer.key": private_pem(issuer.key),
        "token": issuer.token(),
    }
    for name, content in files.items():
        write_private(folder / name, content)


def issuer_in(folder: Path) -> TokenIssuer:
    """The issuer of the tokens that the services of a folder's credentials take."""
    key = load_pem_private_key((folder / "issuer.key").read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("issuer.key is of another kind")
    return TokenIssuer("dev", key)


def jwk_set(*issuers: TokenIssuer) -> str:
    """The key set that verifies their tokens."""
    return json.dumps({"keys": [issuer.public_jwk for issuer in issuers]})


def write_private(file: Path, content: bytes | str) -> None:
    """Replaces a file, which nobody else can read at any moment."""
    new = file.with_name(f".{file.name}")
    new.touch(mode=0o600)
    new.write_bytes(content.encode() if isinstance(content, str) else content)
    new.replace(file)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def tls_options(folder: Path = FOLDER) -> list[str]:
    """The options with which either service listens with TLS, to who has a certificate."""
    return [
        *("--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key")),
        *("--tls-client-ca", str(folder / "ca.pem")),
    ]


def server_options(folder: Path = FOLDER) -> list[str]:
    """Those with which it also asks everybody who they are."""
    return [
        *tls_options(folder),
        *("--jwks", str(folder / "jwks.json")),
        *("--token-issuer", ISSUER, "--token-audience", AUDIENCE),
        *("--identities", str(folder / "identities.toml")),
    ]


def upstream_options(folder: Path = FOLDER) -> list[str]:
    """The options with which a query service says who it is."""
    return [
        *("--upstream-ca", str(folder / "ca.pem")),
        *("--upstream-cert", str(folder / "replica.pem")),
        *("--upstream-key", str(folder / "replica.key")),
    ]


def _pair(name: str, certificate: bytes, key: bytes) -> dict[str, bytes]:
    return {f"{name}.pem": certificate, f"{name}.key": key}


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    make(target)
    sys.stdout.write(f"Credentials for development are in {target}\n")
