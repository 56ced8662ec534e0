"""Bearer tokens: JWTs, signed with a key of a published set (RFC 7519, 7517, 8725)."""

import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jwt
import structlog
from jwt.exceptions import ExpiredSignatureError, PyJWTError

from shared.errors import Unauthenticated
from shared.security.identity import Identity, scopes_of
from shared.security.refreshed import Refreshed

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Whoever can verify with these cannot sign."""

LEEWAY_S = 10.0
"""By so much the issuer's clock may differ."""

MAX_KNOWN = 10_000
MAX_TOKEN_CHARACTERS = 8_000
MAX_LIFETIME_S = 366 * 86_400.0

Keys = Mapping[str, jwt.PyJWK]

logger = structlog.get_logger(__name__)


class Tokens:
    """Tells who has a token. What was verified once is known until the token or its key is gone.

    Args:
        key_set: a file or URL with a JSON Web Key Set.
        issuer: who has to have issued a token.
        audience: whom it has to be for.

    Raises:
        Misconfigured: the key set is neither a file nor an https URL.
    """

    def __init__(self, key_set: str, issuer: str, audience: str) -> None:
        self.keys: Refreshed[Keys] = Refreshed(key_set, keys_of)
        self._issuer = issuer
        self._audience = audience
        self._known: OrderedDict[str, Identity] = OrderedDict()
        self._known_by: Keys | None = None

    async def identity(self, token: str) -> Identity:
        """Who has the token.

        Raises:
            Unauthenticated: TOKEN_EXPIRED or TOKEN_INVALID.
        """
        if self._known_by is not self.keys.value:
            self._known.clear()
            self._known_by = self.keys.value
        identity = self._known.get(token)
        if identity is None:
            identity = await self._verified(token)
            self._known[token] = identity
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        if time.time() >= identity.expires_at:
            del self._known[token]
            raise identity.expired
        return identity

    async def _verified(self, token: str) -> Identity:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise _invalid("it is too long")
        try:
            claims = jwt.decode(
                token,
                await self._key_of(token),
                algorithms=ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_S,
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "enforce_minimum_key_length": True,
                },
            )
            return _identity(claims)
        except ExpiredSignatureError as error:
            raise Unauthenticated("TOKEN_EXPIRED", "The token has expired") from error
        except (PyJWTError, ValueError, TypeError) as error:
            raise _invalid(type(error).__name__) from error

    async def _key_of(self, token: str) -> jwt.PyJWK:
        key_id = jwt.get_unverified_header(token).get("kid", "")
        if key_id not in self.keys.value:
            # It may be a new one.
            await self.keys.ask()
        try:
            return self.keys.value[key_id]
        except KeyError as error:
            raise _invalid("its key is unknown") from error


def keys_of(content: bytes) -> Keys:
    """The keys of a JSON Web Key Set that verify signatures, by their ids.

    Raises:
        ValueError: there are none.
    """
    keys: dict[str, jwt.PyJWK] = {}
    key_set = json.loads(content)
    listed = key_set.get("keys") if isinstance(key_set, dict) else None
    for each in listed if isinstance(listed, list) else ():
        if not isinstance(each, dict) or not isinstance(each.get("kid"), str):
            continue
        if "d" in each or each.get("use", "sig") != "sig":
            # A private key has no business here.
            logger.warning("key_ignored", key_id=each["kid"])
            continue
        try:
            key = jwt.PyJWK(each)
        except PyJWTError:
            logger.warning("key_ignored", key_id=each["kid"])
            continue
        if key.algorithm_name in ALGORITHMS:
            keys[each["kid"]] = key
    if not keys:
        raise ValueError("there is no key in it that verifies signatures")
    return keys


def _identity(claims: Mapping[str, Any]) -> Identity:
    tenants = claims.get("tenants", [])
    scope = claims.get("scope", "")
    if not (isinstance(tenants, list) and isinstance(scope, str)):
        raise TypeError("tenants is a list, and scope a text")
    # A time far away is no reason to compute with it.
    expires_at = min(int(claims["exp"]), int(time.time() + MAX_LIFETIME_S)) + LEEWAY_S
    return Identity(
        str(claims["sub"]), frozenset(map(str, tenants)), scopes_of(scope.split()), expires_at
    )


def _invalid(why: str) -> Unauthenticated:
    """Says the same to the caller whatever is wrong; why, the operator's log says."""
    error = Unauthenticated("TOKEN_INVALID", "The token is not accepted")
    error.add_note(why)
    return error
