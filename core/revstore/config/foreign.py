"""Names that etcd knows and the model does not: how each is answered.

Rules of this file:

1. A name is in exactly one table here or in the model; a test compares them with all
   flags of etcd.
2. What changes nothing that a user relies on is accepted with a warning. What would
   weaken security or form another cluster than the one asked for is refused, unless
   it has the value that means "off".
"""

from __future__ import annotations

NO_EFFECT: dict[str, str] = {
    "max-snapshots": "snapshots are kept in the store itself",
    "max-wals": "log files are removed as soon as nothing needs them",
    "backend-bbolt-freelist-type": "there is no bbolt file here",
    "memory-mlock": "the engines manage their own memory",
    "bootstrap-defrag-threshold-megabytes": "space is reclaimed while serving",
    "enable-pprof": "Go's profiler is not part of revstore",
    "logger": "there is one logger; see log-format",
    "enable-distributed-tracing": "traces are not sent",
    "distributed-tracing-address": "traces are not sent",
    "distributed-tracing-service-name": "traces are not sent",
    "distributed-tracing-instance-id": "traces are not sent",
    "distributed-tracing-sampling-rate": "traces are not sent",
    "v2-deprecation": "there is no v2 store here",
    "self-signed-cert-validity": "certificates are not made by the server",
    "discovery-fallback": "discovery is not supported",
    "discovery-dial-timeout": "discovery is not supported",
    "discovery-request-timeout": "discovery is not supported",
    "discovery-keepalive-time": "discovery is not supported",
    "discovery-keepalive-timeout": "discovery is not supported",
    "discovery-insecure-transport": "discovery is not supported",
    "discovery-insecure-skip-tls-verify": "discovery is not supported",
}
"""Accepted with a warning; the text says why nothing happens."""

_DISCOVERY = "list the members with initial-cluster instead"
_TLS = "end TLS in a proxy in front of revstore if you need it"

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "config-file": (
        ("",),
        "etcd's YAML file is not read; put the settings into a TOML file, table "
        "[server], with the same names, and give it with --config FILE",
    ),
    "discovery": (("",), _DISCOVERY),
    "discovery-proxy": (("",), _DISCOVERY),
    "discovery-srv": (("",), _DISCOVERY),
    "discovery-srv-name": (("",), _DISCOVERY),
    "discovery-token": (("",), _DISCOVERY),
    "discovery-endpoints": (("",), _DISCOVERY),
    "discovery-cert": (("",), _DISCOVERY),
    "discovery-key": (("",), _DISCOVERY),
    "discovery-cacert": (("",), _DISCOVERY),
    "discovery-user": (("",), _DISCOVERY),
    "discovery-password": (("",), _DISCOVERY),
    "client-cert-file": (("",), "the server never connects to itself; leave it out"),
    "client-key-file": (("",), "the server never connects to itself; leave it out"),
    "client-crl-file": (("",), f"revocation lists are not checked; {_TLS}"),
    "client-cert-allowed-hostname": (("",), f"host names are not checked; {_TLS}"),
    "auto-tls": (("false",), "make a certificate and give cert-file and key-file"),
    "peer-client-cert-file": (("",), "peers use peer-cert-file in both directions"),
    "peer-client-key-file": (("",), "peers use peer-key-file in both directions"),
    "peer-auto-tls": (
        ("false",),
        "make a certificate and give peer-cert-file and peer-key-file",
    ),
    "peer-crl-file": (("",), "revocation lists are not checked; leave it out"),
    "peer-skip-client-san-verification": (
        ("false",),
        "certificates of peers are always verified; leave it out",
    ),
    "cipher-suites": (("",), f"the suites of the TLS library are used; {_TLS}"),
    "tls-min-version": (("TLS1.2", ""), f"TLS 1.2 is the least version; {_TLS}"),
    "tls-max-version": (("", "TLS1.3"), f"TLS 1.3 is the highest version; {_TLS}"),
}
"""Values that are accepted in silence, and what to do instead of any other."""

BOOLEAN_FOREIGN = frozenset(
    {
        "memory-mlock",
        "enable-pprof",
        "enable-distributed-tracing",
        "auto-tls",
        "peer-auto-tls",
        "peer-skip-client-san-verification",
        "discovery-insecure-transport",
        "discovery-insecure-skip-tls-verify",
    }
)
"""Names above that may stand on a command line without a value."""

RENAMED: dict[str, str] = {
    "experimental-backend-bbolt-freelist-type": "backend-bbolt-freelist-type",
    "experimental-bootstrap-defrag-threshold-megabytes": (
        "bootstrap-defrag-threshold-megabytes"
    ),
    "experimental-compact-hash-check-time": "compact-hash-check-time",
    "experimental-compaction-batch-limit": "compaction-batch-limit",
    "experimental-compaction-sleep-interval": "compaction-sleep-interval",
    "experimental-corrupt-check-time": "corrupt-check-time",
    "experimental-distributed-tracing-address": "distributed-tracing-address",
    "experimental-distributed-tracing-instance-id": "distributed-tracing-instance-id",
    "experimental-distributed-tracing-sampling-rate": (
        "distributed-tracing-sampling-rate"
    ),
    "experimental-distributed-tracing-service-name": (
        "distributed-tracing-service-name"
    ),
    "experimental-downgrade-check-time": "downgrade-check-time",
    "experimental-enable-distributed-tracing": "enable-distributed-tracing",
    "experimental-memory-mlock": "memory-mlock",
    "experimental-peer-skip-client-san-verification": (
        "peer-skip-client-san-verification"
    ),
    "experimental-snapshot-catchup-entries": "snapshot-catchup-entries",
    "experimental-warning-apply-duration": "warning-apply-duration",
    "experimental-warning-unary-request-duration": "warning-unary-request-duration",
    "experimental-watch-progress-notify-interval": "watch-progress-notify-interval",
}
"""Old spellings, accepted with a warning that names the new one."""

GATED: dict[str, str] = {
    "experimental-compact-hash-check-enabled": "CompactHashCheck",
    "experimental-enable-lease-checkpoint": "LeaseCheckpoint",
    "experimental-enable-lease-checkpoint-persist": "LeaseCheckpointPersist",
    "experimental-initial-corrupt-check": "InitialCorruptCheck",
    "experimental-stop-grpc-service-on-defrag": "StopGRPCServiceOnDefrag",
    "experimental-txn-mode-write-with-shared-buffer": "TxnModeWriteWithSharedBuffer",
}
"""Old boolean names that became feature gates."""

REMOVED: dict[str, str] = {
    "enable-v2": "the v2 API is gone since etcd 3.6",
    "log-output": "etcd 3.5 removed it; use log-outputs",
    "log-package-levels": "etcd 3.5 removed it; use log-level",
    "next-cluster-version-compatible": "it exists in etcd 3.4 alone; leave it out",
    "proxy": "the v2 proxy is gone since etcd 3.6",
    "proxy-dial-timeout": "the v2 proxy is gone since etcd 3.6",
    "proxy-failure-wait": "the v2 proxy is gone since etcd 3.6",
    "proxy-read-timeout": "the v2 proxy is gone since etcd 3.6",
    "proxy-refresh-interval": "the v2 proxy is gone since etcd 3.6",
    "proxy-write-timeout": "the v2 proxy is gone since etcd 3.6",
    "experimental-enable-v2v3": "the v2 API is gone since etcd 3.6",
}
"""Names that etcd 3.6 does not know either."""

GATES = frozenset(
    {
        "AllAlpha",
        "AllBeta",
        "CompactHashCheck",
        "FastLeaseKeepAlive",
        "InitialCorruptCheck",
        "LeaseCheckpoint",
        "LeaseCheckpointPersist",
        "PriorityRequest",
        "SetMemberLocalAddr",
        "StopGRPCServiceOnDefrag",
        "TxnModeWriteWithSharedBuffer",
    }
)
"""The names that feature-gates may hold."""
