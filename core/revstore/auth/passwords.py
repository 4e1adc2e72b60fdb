"""Password hashes: bcrypt, as etcd stores them.

Rules of this file:

1. A hash takes tens of milliseconds: these functions never run on the loop.
2. No password and no hash ever reaches a log or an error text.
3. A replicated request carries the hash in base64 (etcd's ``hashedPassword``); it is made
   by the member that the client talks to, because its salt is random.
"""

from __future__ import annotations

import base64
import binascii
import re

import bcrypt

from revstore.errors import ConfigError

COST_MIN = 4
COST_MAX = 31
COST_DEFAULT = 10

PASSWORD_BYTES_MAX = 72
"""What bcrypt looks at; a longer password is refused when set."""

_HASH = re.compile(rb"\$2[abxy]\$(\d\d)\$[./A-Za-z0-9]{53}")


def check_cost(cost: int) -> int:
    """The cost itself, if bcrypt can work with it.

    Raises:
        ConfigError: it is outside 4..31.
    """
    if not COST_MIN <= cost <= COST_MAX:
        raise ConfigError(
            f"bcrypt cost {cost} is outside {COST_MIN}..{COST_MAX}; "
            f"use {COST_DEFAULT} unless there is a reason"
        )
    return cost


def hash_password(password: str, cost: int) -> bytes:
    """A fresh hash. Takes about 60 ms at cost 10 and doubles with each step.

    Raises:
        ValueError: the password is longer than 72 bytes.
    """
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost, prefix=b"2a"))


def verify_password(password: str, hashed: bytes) -> bool:
    """Whether a password belongs to a hash. As slow as ``hash_password``.

    A hash that is not bcrypt's belongs to no password. Raises: nothing.
    """
    if not is_hash(hashed):
        return False
    return bcrypt.checkpw(password.encode()[:PASSWORD_BYTES_MAX], hashed)


def is_hash(hashed: bytes) -> bool:
    """Whether these bytes are a bcrypt hash of a cost that can be checked."""
    match = _HASH.fullmatch(hashed)
    return match is not None and COST_MIN <= int(match[1]) <= COST_MAX


def decoy_hash(cost: int) -> bytes:
    """A hash that no known password has, to take the same time for unknown users."""
    return b"$2a$%02d$" % cost + b"." * 53


def to_wire(hashed: bytes) -> str:
    """The hash as a request carries it."""
    return base64.b64encode(hashed).decode()


def from_wire(text: str) -> bytes | None:
    """The hash that a request carries; empty for none, None if it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
