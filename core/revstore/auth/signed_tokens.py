"""JSON web tokens (RFC 7519): whoever has the public key can check them.

Claims: ``username``, ``revision`` (the auth revision they were made at) and ``exp``.

Rules of this file:

1. The method is fixed by the configuration; what a token's own header says is never
   followed.
2. A token that is older than the newest change of users or roles is refused for all
   requests. etcd refuses it for keys only; but an old token of an administrator whose
   password was changed must not go on administering.
3. Signed tokens cannot be taken back one by one; rule 2 takes back all at once.
4. PyJWT is optional, so only ``token_kinds`` imports this module, when asked to.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from revstore.api import errors
from revstore.auth.info import AuthInfo
from revstore.errors import ApiError, ConfigError

jwt: Any = importlib.import_module("jwt")

VERIFY_ONLY = ApiError(
    errors.Code.UNKNOWN, "auth: token signing attempted with verify-only key"
)

TTL_DEFAULT_S = 300.0

SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    | {"ES256", "ES384", "ES512", "EdDSA"}
)

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class SignedTokens:
    """Makes and checks signed tokens; keeps no memory of them."""

    def __init__(
        self,
        method: str,
        *,
        verify_key: Any,
        sign_key: Any,
        ttl_s: float,
        wall_now: Callable[[], float],
    ) -> None:
        self._method = method
        self._verify_key = verify_key
        self._sign_key = sign_key
        self._ttl_s = ttl_s
        self._wall_now = wall_now

    @classmethod
    def from_options(
        cls, options: Mapping[str, str], wall_now: Callable[[], float]
    ) -> SignedTokens:
        """Read the keys that ``sign-method``, ``pub-key``, ``priv-key``, ``ttl`` name.

        Raises:
            ConfigError: an option is unknown or missing, or a key cannot be used.
        """
        unknown = set(options) - {"sign-method", "pub-key", "priv-key", "ttl"}
        if unknown:
            raise ConfigError(f"auth-token jwt has no option {sorted(unknown)[0]!r}")
        method = options.get("sign-method", "")
        if method not in SYMMETRIC | ASYMMETRIC:
            known = ", ".join(sorted(SYMMETRIC | ASYMMETRIC))
            raise ConfigError(
                f"auth-token jwt cannot sign-method={method}; use one of {known}"
            )
        sign_key, verify_key = _keys(method, options)
        return cls(
            method,
            verify_key=verify_key,
            sign_key=sign_key,
            ttl_s=_duration_s(options.get("ttl", "")),
            wall_now=wall_now,
        )

    def make_prefix(self) -> str:
        """Signed tokens need no random part."""
        return ""

    def assign(self, username: str, prefix: str, index: int, revision: int) -> str:
        """Sign a token.

        Raises:
            ApiError: there is no private key here.
        """
        if self._sign_key is None:
            raise VERIFY_ONLY.fresh()
        claims = {
            "username": username,
            "revision": revision,
            "exp": int(self._wall_now() + self._ttl_s),
        }
        return str(jwt.encode(claims, self._sign_key, algorithm=self._method))

    def find(self, token: str, revision: int) -> AuthInfo | None:
        """Check signature, expiry and age.

        Raises:
            ApiError: AUTH_OLD_REVISION.
        """
        try:
            claims = jwt.decode(
                token,
                self._verify_key,
                algorithms=[self._method],
                options={"require": ["exp"], "verify_exp": False},
            )
        except jwt.PyJWTError:
            return None
        username, made_at = claims.get("username"), claims.get("revision")
        expires = claims["exp"]
        if not isinstance(username, str) or not isinstance(made_at, int):
            return None
        if not isinstance(expires, int | float) or expires <= self._wall_now():
            return None
        if made_at < revision:
            raise errors.AUTH_OLD_REVISION.fresh()
        return AuthInfo(username, revision)

    def invalidate_user(self, username: str) -> None:
        """Nothing is remembered; the change that asks for this moves the revision."""

    def clear(self) -> None:
        """Nothing is remembered."""


def _keys(method: str, options: Mapping[str, str]) -> tuple[Any, Any]:
    """(signing key or None, verification key)."""
    private = _read(options, "priv-key")
    public = _read(options, "pub-key")
    if method in SYMMETRIC:
        secret = private or public
        if not secret:
            raise ConfigError(f"auth-token jwt with {method} needs priv-key=FILE")
        return secret, secret
    if private is None and public is None:
        raise ConfigError(
            f"auth-token jwt with {method} needs priv-key=FILE to make tokens "
            "or pub-key=FILE to check them"
        )
    if method not in jwt.algorithms.get_default_algorithms():
        raise ConfigError(
            f"auth-token jwt with {method} needs the package cryptography; "
            "run: pip install 'pyjwt[crypto]'"
        )
    algorithm = jwt.get_algorithm_by_name(method)
    try:
        sign_key: Any = None if private is None else algorithm.prepare_key(private)
        if public is not None:
            return sign_key, algorithm.prepare_key(public)
        return sign_key, sign_key.public_key()
    except (ValueError, TypeError, jwt.PyJWTError) as exc:
        raise ConfigError(f"auth-token jwt: unusable key for {method}: {exc}") from exc


def _read(options: Mapping[str, str], name: str) -> bytes | None:
    path = options.get(name)
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise ConfigError(f"auth-token jwt: cannot read {name}={path}: {exc}") from exc


def _duration_s(text: str) -> float:
    """A time to live such as ``5m`` or ``90s``."""
    if not text:
        return TTL_DEFAULT_S
    number = text.rstrip("hms")
    unit = text[len(number) :]
    try:
        found = float(number) * _SECONDS[unit]
    except (KeyError, ValueError):
        found = 0.0
    if found <= 0:
        raise ConfigError(f"auth-token jwt: ttl={text} is not a time such as 5m or 90s")
    return found
