"""What a member is told at its start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from revstore.mvcc.store import StoreOptions

DEFAULT_PEER_URL = "http://localhost:2380"
DEFAULT_CLIENT_URL = "http://localhost:2379"
DEFAULT_TOKEN = "etcd-cluster"

FLUSH_EVENTS = StoreOptions().flush_events
FLUSH_INTERVAL_S = StoreOptions().flush_interval_s


class PluginChoice(msgspec.Struct, frozen=True):
    """A plugin by name, with its options."""

    name: str
    options: Mapping[str, Any] = {}


class MemberSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one member; sizes in bytes, times in seconds."""

    data_dir: Path
    wal_dir: Path | None = None
    """Where the write-ahead log goes; None: inside the data directory."""
    name: str = "default"
    backend: PluginChoice = PluginChoice("lmdb")
    wal: PluginChoice = PluginChoice("segment")
    consensus: PluginChoice = PluginChoice("solo")
    peer_urls: tuple[str, ...] = (DEFAULT_PEER_URL,)
    client_urls: tuple[str, ...] = (DEFAULT_CLIENT_URL,)
    """What the member list announces to clients."""
    initial_cluster: Mapping[str, tuple[str, ...]] = {}
    """Peer URLs by member name at bootstrap; empty: this member alone."""
    initial_cluster_state: str = "new"
    """``existing``: this member was added to a running cluster."""
    force_new_cluster: bool = False
    """Make this member the only one of its cluster, with the data it has."""
    cluster_token: str = DEFAULT_TOKEN
    max_txn_ops: int = 128
    max_request_bytes: int = 1_572_864
    quota_bytes: int = 2 * 1024**3
    """Bound on the backend's size; 0 or less: none."""
    strict_reconfig_check: bool = True
    max_learners: int = 1
    heartbeat_s: float = 0.1
    election_timeout_s: float = 1.0
    snapshot_count: int = 10_000
    """Applied entries between two points that the log can be purged to."""
    snapshot_bytes: int = 32 << 20
    """The same in bytes of entries; what lies behind the last such point is read at
    each start."""
    catchup_entries: int = 5_000
    """Entries kept in the log behind such a point, if there can be other members."""
    compaction_batch_limit: int = 1000
    compaction_sleep_s: float = 0.01
    flush_events: int = FLUSH_EVENTS
    flush_interval_s: float = FLUSH_INTERVAL_S
    """Both as in ``StoreOptions``."""
    progress_notify_s: float = 600.0
    auto_compaction_mode: str = "periodic"
    auto_compaction_retention: float = 0.0
    """Seconds, or revisions in mode "revision"; 0 means off."""
    initial_corrupt_check: bool = False
    """Compare this member with the others before it serves."""
    corrupt_check_s: float = 0.0
    """Period at which the leader compares all members; 0: off."""
    compact_hash_check_s: float = 0.0
    """The same for what compactions found; 0: off."""
    lease_checkpoints: bool = False
    """Whether long leases keep their remaining time over a change of leader."""
    bcrypt_cost: int = 10
    auth_token: str = "simple"
    auth_token_ttl_s: int = 300
    certificate_users: bool = False
    """Whether a client's certificate names its user where it sends no token."""

    @property
    def request_timeout_s(self) -> float:
        """How long a proposal may take (etcd: 5 s + 2 election timeouts)."""
        return 5.0 + 2 * self.election_timeout_s
