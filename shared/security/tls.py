"""TLS with certificates from files, which can be renewed while a service runs."""

from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from shared.security.misconfigured import Misconfigured

Version = tuple[tuple[int, int, int], ...]
"""Of each file: when it was changed, its size, which it is."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class KeyPair:
    """A certificate, with those that lead to its authority, and its private key; both PEM.

    Raises:
        OSError: a file cannot be read.
        Misconfigured: a file is not what it should be, or the two do not belong together.
    """

    certificate: bytes
    key: bytes

    @classmethod
    def read(cls, certificate_file: Path, key_file: Path) -> "KeyPair":
        """Reads them from files."""
        certificate, key = certificate_file.read_bytes(), key_file.read_bytes()
        try:
            leaf = x509.load_pem_x509_certificates(certificate)[0]
        except ValueError as error:
            raise Misconfigured(f"{certificate_file} has no certificate as PEM") from error
        try:
            private_key = load_pem_private_key(key, password=None)
        except (ValueError, TypeError) as error:
            raise Misconfigured(f"{key_file} has no unencrypted private key as PEM") from error
        if private_key.public_key() != leaf.public_key():
            raise Misconfigured(f"The key in {key_file} is not that of {certificate_file}")
        return cls(certificate, key)


class ServerTls:
    """The server's side: its certificate, and the authority of its clients', if they need one.

    Each handshake looks whether a file has changed. What is renewed by halves is not used.

    Args:
        certificate: file with the server's certificate, and those that lead to its authority.
        key: file with its private key.
        client_ca: file with the authorities that clients' certificates have to be from; None:
            clients are not asked for one.

    Raises:
        OSError: a file cannot be read.
        Misconfigured: a file is not what it should be.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._seen = self._version()
        self._configuration = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """What a gRPC server listens with."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration,
            self._renewed,  # type: ignore[arg-type]  # None: as before, as gRPC documents it
            require_client_authentication=self._client_ca is not None,
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What has changed. gRPC asks before each handshake, in a thread of its own."""
        try:
            version = self._version()
            if version == self._seen:
                return None
            self._seen = version
            self._configuration = self._read()
        except (OSError, Misconfigured) as error:
            # Half of a renewal: the other half is another version.
            logger.warning("certificate_not_renewed", error=str(error))
            return None
        logger.info("certificate_renewed", file=str(self._certificate))
        return self._configuration

    def _read(self) -> grpc.ServerCertificateConfiguration:
        pair = KeyPair.read(self._certificate, self._key)
        client_ca = read_authorities(self._client_ca) if self._client_ca else None
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], client_ca)

    def _version(self) -> Version:
        files = [self._certificate, self._key, *([self._client_ca] if self._client_ca else [])]
        found = [file.stat() for file in files]
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)


def read_authorities(file: Path) -> bytes:
    """Certificates of authorities, as PEM.

    Raises:
        OSError: the file cannot be read.
        Misconfigured: there is none in it.
    """
    authorities = file.read_bytes()
    try:
        x509.load_pem_x509_certificates(authorities)
    except ValueError as error:
        raise Misconfigured(f"{file} has no certificate as PEM") from error
    return authorities
