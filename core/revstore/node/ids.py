"""Member and cluster ids, computed as etcd computes them (etcd membership docs)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha1
from struct import pack


def member_id(
    peer_urls: Sequence[str], token: str, unix_seconds: int | None = None
) -> int:
    """Id of a member; ``unix_seconds`` is given for one that is added later."""
    text = "".join(sorted(peer_urls)) + token
    if unix_seconds is not None:
        text += str(unix_seconds)
    return int.from_bytes(sha1(text.encode()).digest()[:8], "big")


def cluster_id(voter_ids: Iterable[int]) -> int:
    """Id of the cluster that the given voters bootstrap."""
    packed = b"".join(pack(">Q", member) for member in sorted(voter_ids))
    return int.from_bytes(sha1(packed).digest()[:8], "big")
