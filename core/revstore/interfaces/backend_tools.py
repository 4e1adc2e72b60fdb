"""Helpers for authors of backends: the checks that every engine has to make.

Nothing here is part of the contract; a backend may do the same in its own way.

- ``check_batch`` refuses what B-03 and the levels of durability forbid, before the
  engine has seen anything, so that a refused batch changes nothing.
- ``guard_forks`` lets a backend disable itself in a forked child (B-13) without a
  process id being asked for on each read.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection
from typing import Protocol

from revstore.errors import UsageError
from revstore.interfaces.backend import BackendCapabilities, Durability, WriteBatch

KEY_BYTES_MAX = 2 * 1024 * 1024
"""The longest key of B-03."""

FORKED = (
    "this backend was opened before a fork and cannot be used in the child; "
    "open it after forking"
)
"""The message of B-13."""


def check_batch(
    batch: WriteBatch,
    durability: Durability,
    keyspaces: Collection[str],
    capabilities: BackendCapabilities,
) -> None:
    """Refuse a batch that the contract does not allow.

    Raises:
        UsageError: unknown keyspace, key or value over the limit, or a level above
            ``capabilities.durability_max``.
    """
    if durability > capabilities.durability_max:
        raise UsageError(
            f"this backend honours {capabilities.durability_max.name} at most, "
            f"not {durability.name}"
        )
    value_bytes_max = capabilities.value_bytes_max
    for name, changes in batch.keyspaces.items():
        if name not in keyspaces:
            raise UsageError(
                f"keyspace {name!r} was not named when the backend was opened"
            )
        # One pass: the rows lie anywhere in memory, and touching them is what costs.
        for key, value in changes.puts:
            if len(key) > KEY_BYTES_MAX:
                raise UsageError(_too_long("key", len(key), KEY_BYTES_MAX))
            if len(value) > value_bytes_max:
                raise UsageError(_too_long("value", len(value), value_bytes_max))
        for key in changes.deletes:
            if len(key) > KEY_BYTES_MAX:
                raise UsageError(_too_long("key", len(key), KEY_BYTES_MAX))


def _too_long(what: str, size: int, limit: int) -> str:
    return f"a {what} of {size} bytes is over the limit of {limit}"


class Forkable(Protocol):
    """What ``guard_forks`` calls back."""

    def after_fork_in_child(self) -> None:
        """Make every later call raise StorageError. Raises: nothing."""


_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()


def guard_forks(target: Forkable) -> None:
    """Call ``target.after_fork_in_child`` in each child forked while it lives.

    Raises: nothing.
    """
    _forkables.add(target)


def _disable_all_in_child() -> None:
    for target in list(_forkables):
        target.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disable_all_in_child)
