"""Bounds of the machine, and how they relate.

Every queue of the machine has its bound here or in ``RaftConfig``. Relations among
them are checked when this module is imported and when a configuration is made.
"""

from __future__ import annotations

from typing import Final

from revstore.errors import InvariantViolation

NO_LIMIT: Final = (1 << 64) - 1
"""Larger than any size or index; as a commit index it means "everything"."""

MESSAGE_BYTES_MAX: Final = 1 << 20
"""Entries in one append message (etcd's server uses the same)."""

COMMITTED_BYTES_MAX: Final = 16 << 20
"""Committed entries handed out and not yet applied (C-09)."""

UNCOMMITTED_BYTES_MAX: Final = 256 << 20
"""Payload that a leader accepts beyond what is applied; more is dropped (C-07)."""

INFLIGHT_MESSAGES_MAX: Final = 512
"""Append messages on the way to one follower (etcd's server uses the same)."""

INFLIGHT_BYTES_MAX: Final = 64 << 20
"""Payload on the way to one follower."""

READS_MAX: Final = 4096
"""Reads of this member that wait for confirmation; beyond it the oldest is dropped."""

REMOTE_READS_MAX: Final = 4096
"""Reads that wait at the leader, postponed or for an answer; more are ignored, and
whoever asked asks again."""

RECENT_ENTRIES_MAX: Final = 65_536
"""Stable entries kept in memory because they are about to be applied."""

if not MESSAGE_BYTES_MAX <= INFLIGHT_BYTES_MAX <= UNCOMMITTED_BYTES_MAX:
    raise InvariantViolation("a message must fit the window, the window the backlog")
