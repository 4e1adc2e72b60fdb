"""Which keys a user may read and write.

Rules of this file:

1. Ranges are half-open; None as an end means "to infinity". A single key ``k`` is the
   range from ``k`` to its successor ``k + NUL``.
2. A request is allowed if the union of all granted ranges covers the whole of it. An
   open-ended request is covered only by a range that reaches infinity.
3. The result depends on the rows alone: no clock, no order of insertion.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from revstore.proto.auth_pb2 import Permission

ROOT = "root"
"""Name of the user and of the role that may do everything."""

OPEN_END = b"\0"
"""etcd's way to write "every key from here on"."""

Range = tuple[bytes, bytes | None]


def request_range(key: bytes, range_end: bytes) -> Range:
    """The range that a request touches.

    A range whose end does not lie after its key touches nothing; permission on the key
    itself is asked for then, so that such a request never needs less than a point.
    """
    if range_end == OPEN_END:
        return key, None
    if not range_end or range_end <= key:
        return key, key + b"\0"
    return key, range_end


def granted_range(permission: Permission) -> Range | None:
    """The range that a permission grants; None if it grants nothing.

    Logs of old etcd versions may hold permissions with an end before their key.
    """
    key, end = permission.key, permission.range_end
    if end == OPEN_END:
        return key, None
    if not end:
        return key, key + b"\0"
    return (key, end) if end > key else None


def is_grantable(permission: Permission) -> bool:
    """Whether a permission may be stored: a known type, a key, a range with room."""
    return (
        permission.permType in Permission.Type.values()
        and bool(permission.key)
        and granted_range(permission) is not None
    )


class RangeSet:
    """The union of ranges as disjoint pieces, none touching another."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes | None] = []
        for start, end in sorted(ranges, key=lambda item: item[0]):
            self._append(start, end)

    def _append(self, start: bytes, end: bytes | None) -> None:
        if self._ends:
            last = self._ends[-1]
            if last is None:
                return
            if start <= last:
                if end is None or end > last:
                    self._ends[-1] = end
                return
        self._starts.append(start)
        self._ends.append(end)

    def covers(self, start: bytes, end: bytes | None) -> bool:
        """Whether all of the non-empty range lies in the union."""
        position = bisect_right(self._starts, start) - 1
        if position < 0:
            return False
        last = self._ends[position]
        return last is None or (end is not None and end <= last)

    def covers_key(self, key: bytes) -> bool:
        """Whether one key lies in the union."""
        position = bisect_right(self._starts, key) - 1
        if position < 0:
            return False
        last = self._ends[position]
        return last is None or key < last


class UserPermissions:
    """Everything one user may do."""

    __slots__ = ("is_root", "read", "write")

    def __init__(self, is_root: bool, permissions: Iterable[Permission]) -> None:
        read: list[Range] = []
        write: list[Range] = []
        for permission in permissions:
            span = granted_range(permission)
            if span is None:
                continue
            if permission.permType in (Permission.READ, Permission.READWRITE):
                read.append(span)
            if permission.permType in (Permission.WRITE, Permission.READWRITE):
                write.append(span)
        self.is_root = is_root
        self.read = RangeSet(read)
        self.write = RangeSet(write)
