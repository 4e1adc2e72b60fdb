"""Who makes a request.

Rules of this file:

1. Values and shapes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Identity(Protocol):
    """A user name and the auth revision at which it was established."""

    @property
    def username(self) -> str:
        """Name of the user; empty: nobody."""
        ...

    @property
    def revision(self) -> int:
        """Auth revision of the token that named the user."""
        ...


class AuthInfo(msgspec.Struct, frozen=True, gc=False):
    """The identity that travels with a proposal."""

    username: str
    revision: int


class SystemRows(Protocol):
    """What authorisation needs from the store."""

    @property
    def applied_index(self) -> int:
        """Index of the newest applied entry."""
        ...

    def system_get(self, keyspace: str, key: bytes) -> bytes | None:
        """One row of a system keyspace. Raises: StorageError."""
        ...

    def system_scan(
        self, keyspace: str, lo: bytes, hi: bytes
    ) -> Sequence[tuple[bytes, bytes]]:
        """Rows of ``[lo, hi)``, ascending. Raises: StorageError."""
        ...

    def system_put(self, keyspace: str, key: bytes, value: bytes) -> None:
        """Write a row, atomic with the entry being applied. Raises: StorageError."""
        ...

    def system_delete(self, keyspace: str, key: bytes) -> None:
        """Delete a row, atomic with the entry being applied. Raises: StorageError."""
        ...

    def lease_keys(self, lease_id: int) -> Sequence[bytes]:
        """Keys attached to a lease, ascending; none if unknown. Raises: StorageError."""
        ...
