"""The kinds of tokens that ``--auth-token`` can name.

Rules of this file:

1. A kind is parsed completely here: an unknown name or option is refused, not ignored.
2. The library for signed tokens is optional and imported only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from revstore.auth.tokens import SimpleTokens, TokenProvider
from revstore.errors import ConfigError
from revstore.interfaces.ports import Clock

KINDS = "'simple' or 'jwt,sign-method=METHOD,pub-key=FILE,priv-key=FILE,ttl=5m'"


def make_tokens(
    spec: str,
    clock: Clock,
    random: Random,
    ttl_s: float,
    wall_now: Callable[[], float],
) -> TokenProvider:
    """The provider that a setting asks for (etcd's ``--auth-token``).

    ``clock``, ``random`` and ``ttl_s`` are for simple tokens; ``random`` must be
    unpredictable (``random.SystemRandom()``) wherever tokens protect anything. Signed
    tokens carry wall-clock times, from ``wall_now``, and have their own ``ttl`` option.

    Raises:
        ConfigError: unknown kind or option, unusable keys, or a missing library.
    """
    kind, _comma, rest = spec.partition(",")
    if kind == "simple" and not rest:
        return SimpleTokens(clock, random, ttl_s=ttl_s)
    if kind != "jwt":
        raise ConfigError(f"auth-token {spec!r} is not known; use {KINDS}")
    try:
        from revstore.auth.signed_tokens import SignedTokens
    except ImportError as exc:
        raise ConfigError(
            "auth-token 'jwt' needs the package PyJWT, for other methods than HS* with "
            "the package cryptography; run: pip install 'pyjwt[crypto]', "
            "or use auth-token 'simple'"
        ) from exc
    return SignedTokens.from_options(_options(rest), wall_now)


def _options(text: str) -> dict[str, str]:
    """``a=b,c=d`` as a mapping."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        name, equals, value = part.partition("=")
        if not equals or not name or name in found:
            raise ConfigError(f"auth-token option {part!r} is not usable; use {KINDS}")
        found[name] = value
    return found
