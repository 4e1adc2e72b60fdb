"""What is left to read of a store whose backend is being replaced.

Rules of this file:

1. Nothing here reads the backend: it holds half a state.
2. The small keyspaces of membership, alarms and users are kept as they were, since the
   member still talks to the others. All else is refused with INSTALLING.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from revstore.api import errors
from revstore.interfaces.backend import Pair, Snapshot
from revstore.mvcc.layers import Layers
from revstore.mvcc.system import system_scan
from revstore.mvcc.tables import ALARM, AUTH, CLUSTER

KEPT = (CLUSTER, ALARM, AUTH)


class SuspendedSnapshot(Snapshot):
    """The kept keyspaces of a store; see the module's rules."""

    def __init__(self, layers: Layers) -> None:
        """Copy what is kept. Raises: StorageError."""
        self._rows = {name: system_scan(layers, name, b"", None) for name in KEPT}
        self._values = {name: dict(rows) for name, rows in self._rows.items()}

    def get(self, keyspace: str, key: bytes) -> bytes | None:
        """See ``Snapshot``. Raises: ApiError."""
        values = self._values.get(keyspace)
        if values is None:
            raise errors.INSTALLING.fresh()
        return values.get(key)

    def get_many(self, keyspace: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``Snapshot``. Raises: ApiError."""
        return [self.get(keyspace, key) for key in keys]

    def scan(
        self,
        keyspace: str,
        lo: bytes,
        hi: bytes | None,
        *,
        reverse: bool = False,
        limit: int = 0,
        chunk: int = 1000,
    ) -> Iterator[list[Pair]]:
        """See ``Snapshot``. Raises: ApiError."""
        rows = self._rows.get(keyspace)
        if rows is None:
            raise errors.INSTALLING.fresh()
        keys = [key for key, _ in rows]
        end = len(rows) if hi is None else bisect_left(keys, hi)
        found = rows[bisect_left(keys, lo) : end]
        if reverse:
            found.reverse()
        if limit:
            del found[limit:]
        return iter([found[at : at + chunk] for at in range(0, len(found), chunk)])

    def close(self) -> None:
        """See ``Snapshot``."""
