"""Simple tokens: random words that a member remembers for a while.

Rules of this file:

1. Tokens are not replicated state: each member keeps its own table, made from the same
   replicated Authenticate entries, and loses it when it stops.
2. A token lives ``ttl_s`` after its last use. The table is ordered by last use, which is
   also the order of expiry, so dropping expired tokens costs nothing per call.
3. The table has a bound; beyond it the token that was not used for longest goes, and
   its owner has to authenticate again.
4. Randomness is injected. A member passes ``random.SystemRandom()``: whoever guesses a
   token is that user.
"""

from __future__ import annotations

import string
from collections import OrderedDict
from collections.abc import Mapping
from random import Random
from typing import NamedTuple, Protocol

from revstore.auth.info import AuthInfo
from revstore.errors import ConfigError
from revstore.interfaces.ports import Clock

TOKEN_LETTERS = 16
TOKEN_TTL_S = 300.0
TOKENS_MAX = 100_000
INDEX_DIGITS_MAX = 20
"""Digits of the largest log index."""

BEARER = "Bearer "


class TokenProvider(Protocol):
    """Makes tokens and knows whose they are."""

    def make_prefix(self) -> str:
        """The random part of a new token, which travels in the log entry.
        Raises: nothing."""
        ...

    def assign(self, username: str, prefix: str, index: int, revision: int) -> str:
        """The token of a user who has just authenticated.

        Raises:
            ApiError: this member cannot make tokens.
        """
        ...

    def find(self, token: str, revision: int) -> AuthInfo | None:
        """Whose token this is; None if nobody's. ``revision``: the store's own.

        Raises:
            ApiError: the token was made at an older auth revision.
        """
        ...

    def invalidate_user(self, username: str) -> None:
        """Forget the tokens of a user. Raises: nothing."""
        ...

    def clear(self) -> None:
        """Forget all tokens. Raises: nothing."""
        ...


class _Token(NamedTuple):
    username: str
    deadline: float


class SimpleTokens:
    """Sixteen random letters, a dot and a log index; sliding time to live."""

    def __init__(
        self,
        clock: Clock,
        random: Random,
        *,
        ttl_s: float = TOKEN_TTL_S,
        tokens_max: int = TOKENS_MAX,
    ) -> None:
        if ttl_s <= 0 or tokens_max <= 0:
            raise ConfigError(
                f"auth token ttl {ttl_s} s and token bound {tokens_max} "
                "must both be positive"
            )
        self._clock = clock
        self._random = random
        self._ttl_s = ttl_s
        self._tokens_max = tokens_max
        self._tokens: OrderedDict[str, _Token] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tokens)

    def make_prefix(self) -> str:
        """Sixteen random letters."""
        return "".join(self._random.choices(string.ascii_letters, k=TOKEN_LETTERS))

    def assign(self, username: str, prefix: str, index: int, revision: int) -> str:
        """Remember a new token."""
        token = f"{prefix}.{index}"
        now = self._clock.now()
        self._drop_expired(now)
        self._tokens[token] = _Token(username, now + self._ttl_s)
        self._tokens.move_to_end(token)
        if len(self._tokens) > self._tokens_max:
            self._tokens.popitem(last=False)
        return token

    def find(self, token: str, revision: int) -> AuthInfo | None:
        """The owner at the store's current revision; its life starts anew."""
        now = self._clock.now()
        self._drop_expired(now)
        found = self._tokens.get(token)
        if found is None:
            return None
        self._tokens[token] = _Token(found.username, now + self._ttl_s)
        self._tokens.move_to_end(token)
        return AuthInfo(found.username, revision)

    def _drop_expired(self, now: float) -> None:
        tokens = self._tokens
        while tokens:
            token, oldest = next(iter(tokens.items()))
            if oldest.deadline > now:
                return
            del tokens[token]

    def invalidate_user(self, username: str) -> None:
        """Forget the tokens of a user."""
        mine = [key for key, item in self._tokens.items() if item.username == username]
        for token in mine:
            del self._tokens[token]

    def clear(self) -> None:
        """Forget all tokens."""
        self._tokens.clear()


def token_of(metadata: Mapping[str, str]) -> str | None:
    """The token that a client sent: ``token``, else ``authorization``, with or without
    the word Bearer; None if neither is there."""
    text = metadata.get("token")
    if text is None:
        text = metadata.get("authorization")
    if text is None:
        return None
    return text.removeprefix(BEARER)


def token_index(metadata: Mapping[str, str]) -> int:
    """Index of the entry that a simple token was made by; 0: no such token."""
    token = token_of(metadata)
    if token is None:
        return 0
    digits = token.rpartition(".")[2]
    if len(digits) <= INDEX_DIGITS_MAX and digits.isascii() and digits.isdecimal():
        return int(digits)
    return 0


def looks_simple(token: str) -> bool:
    """Whether a token has the form of a simple token, known or not."""
    letters, dot, index = token.partition(".")
    return (
        bool(dot)
        and len(letters) == TOKEN_LETTERS
        and letters.isascii()
        and letters.isalpha()
        and index.isascii()
        and index.isdigit()
    )
