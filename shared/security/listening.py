"""Where a service may listen: beyond this machine only with TLS, and only for those it knows."""

import ipaddress

from shared.security.misconfigured import Misconfigured


def check_listen(listen: str, *, has_tls: bool, asks: bool, insecure: bool) -> None:
    """Refuses to be reached from other machines by anybody, unless that is wanted.

    Args:
        listen: HOST:PORT.
        has_tls: whether it would listen with TLS.
        asks: whether it would ask callers who they are.
        insecure: whether somebody said that the network is trusted.

    Raises:
        OSError: it is no address.
        Misconfigured: with a sentence that says what to do.
    """
    host, _, port = listen.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 1 << 16):
        raise OSError(f"{listen!r} is not HOST:PORT")
    if insecure or is_loopback(listen):
        return
    reachable = f"{listen} can be reached from other machines, and"
    otherwise = "listen on 127.0.0.1, or say --insecure if the network is trusted"
    if not has_tls:
        raise Misconfigured(
            f"{reachable} there is no TLS: give --tls-cert and --tls-key, {otherwise}"
        )
    if not asks:
        raise Misconfigured(
            f"{reachable} nobody is asked who they are: give --jwks or --identities, {otherwise}"
        )


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is of this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
