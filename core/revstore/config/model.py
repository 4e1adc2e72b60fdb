"""Every setting of a server: name, type, default, meaning.

Rules of this file:

1. A setting that etcd has carries etcd's flag name, with ``_`` for ``-``, and etcd's
   unit: durations are seconds here, ``heartbeat_interval`` and ``election_timeout``
   are milliseconds.
2. This is the only list of settings: flags, variables, file keys, help texts and
   ``docs/configuration.md`` are made from it.
3. A setting is here when it can take effect; the others are in ``foreign``.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from revstore.config.forms import Form


def about(
    group: str,
    meaning: str,
    form: Form | None = None,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
) -> msgspec.Meta:
    """What is said of a setting beside its type and default."""
    extra: dict[str, Any] = {"group": group, "form": form, "choices": choices}
    return msgspec.Meta(description=meaning, extra=extra | {"low": low, "high": high})


MAX_UINT32 = 4_294_967_295

PARTS = "Parts and profile"
MEMBER = "Member and data"
CLUSTER = "Cluster"
CLIENTS = "Clients and requests"
STORE = "Store, compaction and checks"
SECURITY = "Security"
LOGS = "Logs and metrics"


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The effective settings of one server; see ``docs/configuration.md``."""

    # Parts and profile.
    backend: Annotated[str, about(PARTS, "Backend plugin that keeps the data.")] = (
        "lmdb"
    )
    wal: Annotated[str, about(PARTS, "Write-ahead log plugin.")] = "segment"
    consensus: Annotated[
        str,
        about(PARTS, "Consensus plugin; solo is for one member that stays alone."),
    ] = "raft"
    transport: Annotated[
        str, about(PARTS, "Transport plugin that serves the clients.")
    ] = "grpc"
    peer_transport: Annotated[
        str, about(PARTS, "Transport plugin between the members of a cluster.")
    ] = "tcp"
    profile: Annotated[
        str,
        about(
            PARTS,
            "Workload profile; chooses parts and tuning, explicit settings win.",
            choices=("", "read-heavy", "write-heavy", "kubernetes", "embedded"),
        ),
    ] = ""

    # Member and data.
    name: Annotated[
        str, about(MEMBER, "Name of this member; its key in initial-cluster.")
    ] = "default"
    data_dir: Annotated[
        str,
        about(MEMBER, "Directory of the member's data; empty means <name>.revstore."),
    ] = ""
    wal_dir: Annotated[
        str,
        about(MEMBER, "Directory of the write-ahead log; empty means below data-dir."),
    ] = ""
    unsafe_no_fsync: Annotated[
        bool,
        about(
            MEMBER, "Skip fsync. A power cut then loses or corrupts data: tests only."
        ),
    ] = False
    force_new_cluster: Annotated[
        bool,
        about(
            MEMBER, "Make this member the only one of its cluster (disaster recovery)."
        ),
    ] = False

    # Cluster.
    initial_cluster: Annotated[
        dict[str, tuple[str, ...]],
        about(
            CLUSTER,
            "Members at the first start; empty means this one at its advertised URLs.",
            Form.CLUSTER,
        ),
    ] = {}
    initial_cluster_state: Annotated[
        str,
        about(
            CLUSTER,
            "new forms a cluster, existing joins one.",
            choices=("new", "existing"),
        ),
    ] = "new"
    initial_cluster_token: Annotated[
        str, about(CLUSTER, "Text that goes into the ids of cluster and members.")
    ] = "etcd-cluster"
    listen_peer_urls: Annotated[
        tuple[str, ...], about(CLUSTER, "Where peers are served.", Form.BIND_URLS)
    ] = ("http://localhost:2380",)
    initial_advertise_peer_urls: Annotated[
        tuple[str, ...],
        about(CLUSTER, "Peer URLs announced to the cluster.", Form.URLS),
    ] = ("http://localhost:2380",)
    heartbeat_interval: Annotated[
        int, about(CLUSTER, "Tick and heartbeat, in milliseconds.", low=1)
    ] = 100
    election_timeout: Annotated[
        int,
        about(
            CLUSTER,
            "Election timeout in milliseconds; at least 5 heartbeats.",
            low=1,
            high=50_000,
        ),
    ] = 1000
    initial_election_tick_advance: Annotated[
        bool, about(CLUSTER, "Skip most of the first election timeout after a start.")
    ] = True
    pre_vote: Annotated[
        bool, about(CLUSTER, "Ask for votes without raising the term first.")
    ] = True
    snapshot_count: Annotated[
        int, about(CLUSTER, "Applied entries between two snapshots of the log.", low=1)
    ] = 10_000
    snapshot_catchup_entries: Annotated[
        int, about(CLUSTER, "Entries kept for slow followers after a snapshot.", low=1)
    ] = 5000
    strict_reconfig_check: Annotated[
        bool, about(CLUSTER, "Refuse membership changes that would lose the quorum.")
    ] = True
    max_learners: Annotated[
        int, about(CLUSTER, "Largest number of learners.", low=1)
    ] = 1
    raft_read_timeout: Annotated[
        float, about(CLUSTER, "Read timeout of peer connections.", low=1)
    ] = 5.0
    raft_write_timeout: Annotated[
        float, about(CLUSTER, "Write timeout of peer connections.", low=1)
    ] = 5.0
    downgrade_check_time: Annotated[
        float, about(CLUSTER, "How often a running downgrade is looked at.", low=0)
    ] = 5.0

    # Clients and requests.
    listen_client_urls: Annotated[
        tuple[str, ...], about(CLIENTS, "Where clients are served.", Form.BIND_URLS)
    ] = ("http://localhost:2379",)
    listen_client_http_urls: Annotated[
        tuple[str, ...],
        about(CLIENTS, "Separate listeners for HTTP alone.", Form.BIND_URLS),
    ] = ()
    listen_metrics_urls: Annotated[
        tuple[str, ...],
        about(CLIENTS, "Further listeners for /metrics and /health.", Form.BIND_URLS),
    ] = ()
    advertise_client_urls: Annotated[
        tuple[str, ...],
        about(
            CLIENTS,
            "Client URLs in the member list; follows listen-client-urls if not given.",
            Form.URLS,
        ),
    ] = ("http://localhost:2379",)
    max_request_bytes: Annotated[
        int, about(CLIENTS, "Largest request in bytes.", low=1)
    ] = 1_572_864
    max_txn_ops: Annotated[
        int, about(CLIENTS, "Most operations in one branch of a transaction.", low=1)
    ] = 128
    max_concurrent_streams: Annotated[
        int,
        about(CLIENTS, "Most open streams on a connection.", low=1, high=MAX_UINT32),
    ] = MAX_UINT32
    grpc_keepalive_min_time: Annotated[
        float, about(CLIENTS, "Least time between two pings of a client.", low=0)
    ] = 5.0
    grpc_keepalive_interval: Annotated[
        float, about(CLIENTS, "Time between pings of the server; 0 sends none.", low=0)
    ] = 7200.0
    grpc_keepalive_timeout: Annotated[
        float, about(CLIENTS, "Close if a ping is not answered for so long.", low=0)
    ] = 20.0
    socket_reuse_port: Annotated[
        bool, about(CLIENTS, "Set SO_REUSEPORT on listeners.")
    ] = False
    socket_reuse_address: Annotated[
        bool, about(CLIENTS, "Set SO_REUSEADDR on listeners.")
    ] = False
    enable_grpc_gateway: Annotated[
        bool, about(CLIENTS, "Serve the JSON gateway beside gRPC.")
    ] = True
    cors: Annotated[
        tuple[str, ...], about(CLIENTS, "Origins that browsers may call from.")
    ] = ("*",)
    host_whitelist: Annotated[
        tuple[str, ...], about(CLIENTS, "Host headers accepted without TLS.")
    ] = ("*",)
    watch_progress_notify_interval: Annotated[
        float,
        about(CLIENTS, "Time between progress notifications of a watch.", low=0.1),
    ] = 600.0

    # Store, compaction and checks.
    quota_backend_bytes: Annotated[
        int,
        about(
            STORE, "Size in bytes that raises NOSPACE; 0 means 2 GiB, below 0 no quota."
        ),
    ] = 0
    backend_batch_limit: Annotated[
        int,
        about(STORE, "Changes gathered before a backend write; 0 means 50,000.", low=0),
    ] = 0
    backend_batch_interval: Annotated[
        float,
        about(STORE, "Longest time before a backend write; 0 means 1 s.", low=0),
    ] = 0.0
    auto_compaction_mode: Annotated[
        str,
        about(
            STORE,
            "periodic keeps a time, revision keeps a number of revisions.",
            choices=("periodic", "revision"),
        ),
    ] = "periodic"
    auto_compaction_retention: Annotated[
        float,
        about(
            STORE,
            "What is kept: a duration, bare hours, or revisions by mode; 0 is off.",
            Form.RETENTION,
        ),
    ] = 0.0
    compaction_batch_limit: Annotated[
        int, about(STORE, "Revisions removed in one step of a compaction.", low=1)
    ] = 1000
    compaction_sleep_interval: Annotated[
        float, about(STORE, "Pause between two steps of a compaction.", low=0)
    ] = 0.01
    corrupt_check_time: Annotated[
        float, about(STORE, "Period of comparing hashes of members; 0 is off.", low=0)
    ] = 0.0
    compact_hash_check_time: Annotated[
        float, about(STORE, "Period of comparing hashes of compactions.", low=1)
    ] = 60.0
    feature_gates: Annotated[
        dict[str, bool], about(STORE, "Features switched on or off.", Form.GATES)
    ] = {}

    # Security.
    cert_file: Annotated[
        str, about(SECURITY, "Certificate shown to clients (PEM).")
    ] = ""
    key_file: Annotated[str, about(SECURITY, "Key of cert-file (PEM).")] = ""
    trusted_ca_file: Annotated[
        str, about(SECURITY, "Authorities of client certificates (PEM).")
    ] = ""
    client_cert_auth: Annotated[
        bool, about(SECURITY, "Demand a certificate from every client.")
    ] = False
    peer_cert_file: Annotated[
        str, about(SECURITY, "Certificate shown to peers (PEM).")
    ] = ""
    peer_key_file: Annotated[str, about(SECURITY, "Key of peer-cert-file (PEM).")] = ""
    peer_trusted_ca_file: Annotated[
        str, about(SECURITY, "Authorities of peer certificates (PEM).")
    ] = ""
    peer_client_cert_auth: Annotated[
        bool, about(SECURITY, "Demand a certificate from every peer.")
    ] = False
    peer_cert_allowed_cn: Annotated[
        tuple[str, ...],
        about(SECURITY, "Common names that certificates of peers may have."),
    ] = ()
    peer_cert_allowed_hostname: Annotated[
        tuple[str, ...],
        about(SECURITY, "Host names that certificates of peers may be for."),
    ] = ()
    auth_token: Annotated[
        str,
        about(SECURITY, "Kind of tokens: simple, or jwt,sign-method=...,pub-key=..."),
    ] = "simple"
    auth_token_ttl: Annotated[
        int, about(SECURITY, "Life of a simple token in seconds.", low=1)
    ] = 300
    bcrypt_cost: Annotated[
        int, about(SECURITY, "Work factor of password hashes.", low=4, high=31)
    ] = 10

    # Logs and metrics.
    log_level: Annotated[
        str,
        about(
            LOGS,
            "Least severe level that is logged.",
            choices=("debug", "info", "warn", "error", "panic", "fatal"),
        ),
    ] = "info"
    log_format: Annotated[
        str,
        about(LOGS, "One JSON object a line, or text.", choices=("json", "console")),
    ] = "json"
    log_outputs: Annotated[
        tuple[str, ...],
        about(LOGS, "stderr, stdout, or paths of files; default means stderr."),
    ] = ("default",)
    enable_log_rotation: Annotated[
        bool, about(LOGS, "Rotate the one log file given in log-outputs.")
    ] = False
    log_rotation_config_json: Annotated[
        str,
        about(
            LOGS, "Rotation by size in MB (maxsize) and number of files (maxbackups)."
        ),
    ] = '{"maxsize":100,"maxage":0,"maxbackups":0,"localtime":false,"compress":false}'
    metrics: Annotated[
        str,
        about(
            LOGS,
            "extensive adds histograms of request times.",
            choices=("basic", "extensive"),
        ),
    ] = "basic"
    warning_apply_duration: Annotated[
        float, about(LOGS, "Log a request whose apply takes longer.", low=0)
    ] = 0.1
    warning_unary_request_duration: Annotated[
        float, about(LOGS, "Log a request that takes longer in all.", low=0)
    ] = 0.3
