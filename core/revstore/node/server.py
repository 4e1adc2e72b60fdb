"""``revstore serve``: one member behind its client listeners, until a signal ends it.

Rules of this file:

1. Clients are served only after the log is replayed; "ready to serve client requests"
   is logged then, once.
2. On SIGTERM and SIGINT: take no new calls, let the running ones end, make everything
   durable, exit 0. A second signal ends at once.
3. A storage failure ends the process with status 1, so that a supervisor restarts it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from revstore import logs
from revstore.api.service import build_table
from revstore.config.load import LoadedConfig
from revstore.config.model import ServerConfig
from revstore.errors import RevstoreError
from revstore.interfaces.peers import PeerTls, peer_transport
from revstore.interfaces.transport import (
    ClientServer,
    ServeOptions,
    TlsOptions,
    Transport,
)
from revstore.node.aio import AsyncNode
from revstore.node.peering import PeerSettings
from revstore.node.settings import (
    FLUSH_EVENTS,
    FLUSH_INTERVAL_S,
    MemberSettings,
    PluginChoice,
)
from revstore.plugin.manager import PluginManager
from revstore.version import revstore_version

LOG = logs.get(__name__)

DRAIN_S = 5.0
GC_OBJECTS = 10_000
GRPC_OVERHEAD_BYTES = 512 * 1024
DEFAULT_QUOTA_BYTES = 2 * 1024**3
MAX_UINT32 = 4_294_967_295

WITHOUT_EFFECT = frozenset(
    {
        "cors",
        "host-whitelist",
        "listen-client-http-urls",
        "listen-metrics-urls",
        "enable-grpc-gateway",
        "metrics",
        "raft-read-timeout",
        "raft-write-timeout",
        "downgrade-check-time",
        "socket-reuse-port",
        "socket-reuse-address",
        "initial-election-tick-advance",
    }
)
"""Settings of etcd that change nothing here: said, not hidden."""


GATES_SERVED = frozenset(
    {
        "AllAlpha",
        "AllBeta",
        "CompactHashCheck",
        "InitialCorruptCheck",
        "LeaseCheckpoint",
        "LeaseCheckpointPersist",
    }
)
"""Features that can be switched here; the others are said to have no effect."""


def has_feature(config: ServerConfig, name: str) -> bool:
    """Whether a feature that is off by default (etcd: "alpha") is switched on."""
    gates = config.feature_gates
    return gates.get(name, gates.get("AllAlpha", False))


def member_settings(loaded: LoadedConfig) -> MemberSettings:
    """The part of the configuration that the member itself needs."""
    config, options = loaded.config, loaded.plugin_options
    wal_options = dict(options.get("wal", {}))
    if config.unsafe_no_fsync:
        wal_options["unsafe_no_fsync"] = True
    return MemberSettings(
        data_dir=Path(config.data_dir or f"{config.name}.revstore"),
        wal_dir=Path(config.wal_dir) if config.wal_dir else None,
        name=config.name,
        backend=PluginChoice(config.backend, options.get("backend", {})),
        wal=PluginChoice(config.wal, wal_options),
        consensus=PluginChoice(config.consensus, options.get("consensus", {})),
        peer_urls=config.initial_advertise_peer_urls,
        client_urls=config.advertise_client_urls,
        initial_cluster=config.initial_cluster,
        initial_cluster_state=config.initial_cluster_state,
        force_new_cluster=config.force_new_cluster,
        cluster_token=config.initial_cluster_token,
        max_txn_ops=config.max_txn_ops,
        max_request_bytes=config.max_request_bytes,
        quota_bytes=config.quota_backend_bytes or DEFAULT_QUOTA_BYTES,
        strict_reconfig_check=config.strict_reconfig_check,
        max_learners=config.max_learners,
        heartbeat_s=config.heartbeat_interval / 1000,
        election_timeout_s=config.election_timeout / 1000,
        snapshot_count=config.snapshot_count,
        catchup_entries=config.snapshot_catchup_entries,
        compaction_batch_limit=config.compaction_batch_limit,
        compaction_sleep_s=config.compaction_sleep_interval,
        flush_events=config.backend_batch_limit or FLUSH_EVENTS,
        flush_interval_s=config.backend_batch_interval or FLUSH_INTERVAL_S,
        progress_notify_s=config.watch_progress_notify_interval,
        auto_compaction_mode=config.auto_compaction_mode,
        auto_compaction_retention=config.auto_compaction_retention,
        initial_corrupt_check=has_feature(config, "InitialCorruptCheck"),
        corrupt_check_s=config.corrupt_check_time,
        compact_hash_check_s=(
            config.compact_hash_check_time
            if has_feature(config, "CompactHashCheck")
            else 0.0
        ),
        lease_checkpoints=has_feature(config, "LeaseCheckpoint"),
        bcrypt_cost=config.bcrypt_cost,
        auth_token=config.auth_token,
        auth_token_ttl_s=config.auth_token_ttl,
        certificate_users=config.client_cert_auth,
    )


def serve_options(config: ServerConfig) -> ServeOptions:
    """How clients are served."""
    tls = None
    if config.cert_file:
        tls = TlsOptions(
            config.cert_file,
            config.key_file,
            config.trusted_ca_file,
            config.client_cert_auth,
        )
    streams = config.max_concurrent_streams
    return ServeOptions(
        urls=config.listen_client_urls,
        request_bytes_max=config.max_request_bytes + GRPC_OVERHEAD_BYTES,
        concurrent_streams_max=0 if streams == MAX_UINT32 else streams,
        keepalive_min_time_s=config.grpc_keepalive_min_time,
        keepalive_interval_s=config.grpc_keepalive_interval,
        keepalive_timeout_s=config.grpc_keepalive_timeout,
        tls=tls,
    )


def peer_settings(config: ServerConfig, plugins: PluginManager) -> PeerSettings | None:
    """How other members are reached; None if consensus has none.

    Raises:
        ConfigError, PluginError: the peer transport cannot be used.
    """
    consensus = plugins.find("consensus", config.consensus)
    if not consensus.capabilities.multi_member:
        return None
    made = plugins.make_transport(config.peer_transport, {})
    tls = None
    if config.peer_cert_file:
        tls = PeerTls(
            config.peer_cert_file,
            config.peer_key_file,
            config.peer_trusted_ca_file,
            (*config.peer_cert_allowed_cn, *config.peer_cert_allowed_hostname),
        )
    return PeerSettings(
        peer_transport(config.peer_transport, made), config.listen_peer_urls, tls
    )


def run(loaded: LoadedConfig) -> int:
    """Serve until a signal; returns the exit status.

    Raises:
        RevstoreError: the member could not be opened or an address not be used.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve(loaded))


def _calm_collector() -> None:
    """Let the cycle collector run less often than its defaults.

    Requests leave no cycles behind; looking for some after every 700 objects took a
    tenth of the time of a put.
    """
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 50)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster event loop, where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


async def serve(loaded: LoadedConfig) -> int:
    """Open, serve, wait for a signal or a failure, close. Raises: as ``run``."""
    config = loaded.config
    if config.unsafe_no_fsync:
        LOG.warn("unsafe-no-fsync is on: a power cut loses or damages data")
    for text in [*loaded.warnings, *_unused(loaded)]:
        LOG.warn(text)
    stop = asyncio.Event()
    _on_signals(stop)
    settings = member_settings(loaded)
    LOG.info(
        "starting revstore",
        version=revstore_version(),
        name=config.name,
        data_dir=str(settings.data_dir),
        backend=config.backend,
        wal=config.wal,
        consensus=config.consensus,
        transport=config.transport,
    )
    plugins = PluginManager()
    listeners = _listeners(loaded, plugins)
    peers = peer_settings(config, plugins)
    node = await _opened(AsyncNode.open(settings, plugins, peers=peers), stop)
    if node is None:
        LOG.info("stopped before it served")
        return 0
    try:
        grouped = _grouped(listeners)
        node.replica.appends.may_sync_on_loop = grouped
        node.calls_come_singly = not grouped
        await _serve(node, listeners, stop)
    finally:
        await node.close()
    if node.replica.failure is not None:
        return 1
    LOG.info("stopped")
    return 0


def _listeners(
    loaded: LoadedConfig, plugins: PluginManager
) -> list[tuple[Transport, ServeOptions]]:
    """The transports that serve clients, by the schemes of the URLs.

    Raises:
        ConfigError, PluginError: one cannot be used.
    """
    config, options = loaded.config, serve_options(loaded.config)
    own = [url for url in options.urls if not url.startswith("tcp")]
    found = []
    if own or config.transport == "tcp":
        made = plugins.make_transport(
            config.transport, loaded.plugin_options.get("transport", {})
        )
        urls = options.urls if config.transport == "tcp" else own
        found.append((made, msgspec.structs.replace(options, urls=urls)))
    rest = [url for url in options.urls if url.startswith("tcp")]
    if rest and config.transport != "tcp":
        made = plugins.make_transport("tcp", {})
        found.append((made, msgspec.structs.replace(options, urls=rest)))
    return found


def _grouped(listeners: list[tuple[Transport, ServeOptions]]) -> bool:
    """Whether a call that comes alone has no other behind it, wherever it comes from.

    Where calls that are under way together come one by one, as behind grpcio, none of
    them may hold up the loop with its sync.
    """
    return all(made.capabilities.groups_calls for made, _ in listeners)


async def _opened(
    opening: Coroutine[Any, Any, AsyncNode], stop: asyncio.Event
) -> AsyncNode | None:
    """The node once it serves; None if a signal came first.

    A member waits for a leader while it opens, and that may take for ever.
    Raises: as ``AsyncNode.open``.
    """
    task = asyncio.ensure_future(opening)
    signal_came = asyncio.ensure_future(stop.wait())
    await asyncio.wait({task, signal_came}, return_when=asyncio.FIRST_COMPLETED)
    signal_came.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        if task.cancelled():
            return None
    return task.result()


async def _serve(
    node: AsyncNode,
    listeners: list[tuple[Transport, ServeOptions]],
    stop: asyncio.Event,
) -> None:
    table = build_table(node.replica)
    node.replica.on_leader_lost = table.leader_lost
    servers: list[ClientServer] = []
    try:
        for transport, options in listeners:
            servers.append(await transport.serve_clients(table, options))
        _calm_collector()
        _tell_ready(node, [url for one in servers for url in one.addresses()])
        await _until_over(node, stop)
    finally:
        LOG.info("stopping")
        await asyncio.gather(*(server.drain(DRAIN_S) for server in servers))


def _unused(loaded: LoadedConfig) -> list[str]:
    """Settings that were given and change nothing for this member."""
    return [
        f"{name} has no effect"
        for name, origin in sorted(loaded.origins.items())
        if name in WITHOUT_EFFECT and origin not in ("default", "derived")
    ] + [
        f"feature-gates: {name} has no effect"
        for name, on in sorted(loaded.config.feature_gates.items())
        if on and name not in GATES_SERVED
    ]


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            LOG.warn("second signal, exiting at once", signal=number.name)
            os._exit(128 + number)
        LOG.info("received signal, shutting down", signal=number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def _tell_ready(node: AsyncNode, urls: list[str]) -> None:
    LOG.info(
        "ready to serve client requests",
        addresses=urls,
        member_id=f"{node.replica.member_id:x}",
        cluster_id=f"{node.replica.cluster_id:x}",
        revision=node.replica.store.revision,
    )
    if urls:
        endpoint = next((url for url in urls if url.startswith("http")), urls[0])
        sys.stdout.write(
            f"\nrevstore listens on {', '.join(urls)}\n"
            f"try:  ETCDCTL_API=3 etcdctl --endpoints {endpoint} put hello world\n\n"
        )
        sys.stdout.flush()
    _notify_supervisor("READY=1")


def _notify_supervisor(state: str) -> None:
    """Tell systemd (sd_notify protocol), if it asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.sendto(state.encode(), address)
    except OSError as exc:
        LOG.warn("supervisor not notified", error=str(exc))


async def _until_over(node: AsyncNode, stop: asyncio.Event) -> None:
    """Wait for a signal, or until the replica stopped by itself."""
    while not stop.is_set() and not node.replica.stopped:
        try:
            await asyncio.wait_for(stop.wait(), 0.2)
        except TimeoutError:
            continue


__all__ = ["RevstoreError", "member_settings", "run", "serve", "serve_options"]
