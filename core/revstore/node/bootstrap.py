"""Opening a member: lock the directory, recover log and backend, join them.

Rules of this file:

1. The backend may be behind the log, never ahead of it: what it has applied and the log
   does not know means that the log lost acknowledged entries.
2. A log with a gap between the backend's applied index and its own first entry cannot
   be replayed. Both are refused, with what to do, before anything is changed.
3. A member that was never bootstrapped starts with one membership entry per initial
   member, as etcd does, so that the log alone tells the whole membership.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

from revstore import logs
from revstore.api.replica import Tag
from revstore.apply import entries
from revstore.apply.cluster import Cluster, encode_conf_change, member_context
from revstore.auth.store import AuthStore
from revstore.errors import ConfigError, CorruptionError, StorageError
from revstore.interfaces.backend import Backend
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    Consensus,
    ConsensusStart,
)
from revstore.interfaces.wal import Wal
from revstore.lease.lessor import Lessor
from revstore.mvcc import tables
from revstore.mvcc.store import Store, StoreOptions
from revstore.node import ids
from revstore.node.datadir import DataDir
from revstore.node.force_new import force_new_cluster
from revstore.node.replica import Parts, Replica
from revstore.node.settings import MemberSettings
from revstore.node.shell import Shell
from revstore.node.snapshots import finish_install
from revstore.plugin.manager import PluginManager
from revstore.proto import membership_pb2
from revstore.snapshot.inbox import FileInbox, Inbox
from revstore.types import ApplyResult, ConfState, Entry, HardState
from revstore.watch.hub import WatchHub, WatchOptions

LOG = logs.get(__name__)

BOOTSTRAP_TERM = 1


class Member(NamedTuple):
    """An opened member: close it with ``close_member``."""

    replica: Replica
    directory: DataDir


class Joining(NamedTuple):
    """Who a member is that was added to a running cluster.

    Its log begins empty: the leader sends it everything, the membership too.
    """

    member_id: int
    cluster_id: int


KNOWN_TO_ITS_LOG = Joining(0, 0)
"""Of a member that has joined before. Its log has the true ids; one that begins with
these is of a start that never finished."""


class Place(NamedTuple):
    """Where a member's data is."""

    backend: Path
    wal: Path
    inbox: Inbox


class Makers(Protocol):
    """What makes the plugins of a member: ``PluginManager``, or a test's own."""

    def make_backend(
        self,
        name: str,
        directory: Path,
        keyspaces: Sequence[str],
        options: Mapping[str, Any] | None = None,
    ) -> Backend:
        """See ``PluginManager``."""
        ...

    def make_wal(
        self,
        name: str,
        directory: Path,
        metadata: bytes,
        threaded: bool,
        options: Mapping[str, Any] | None = None,
    ) -> Wal:
        """See ``PluginManager``."""
        ...

    def make_consensus(
        self,
        name: str,
        start: ConsensusStart,
        options: Mapping[str, Any] | None = None,
    ) -> Consensus:
        """See ``PluginManager``."""
        ...


def open_member(
    settings: MemberSettings,
    plugins: PluginManager,
    shell: Shell,
    *,
    threaded: bool,
    random: Random,
    unix_time: float,
    joining: Joining | None = None,
) -> Member:
    """Open a member's data and make its replica; the shell then has to pump it.

    ``threaded`` says whether the log syncs in its own thread; ``unix_time`` only makes
    request ids differ between starts.

    Raises:
        ConfigError: settings and directory do not fit.
        PluginError: a plugin cannot be used.
        StorageError: the directory is locked, damaged or unreadable.
    """
    directory = DataDir(
        settings.data_dir, settings.wal_dir, settings.backend.name, settings.wal.name
    )
    try:
        place = Place(
            directory.backend_path,
            directory.wal_path,
            FileInbox(directory.path / "member" / "snapshot.in"),
        )
        replica = open_replica(
            settings,
            plugins,
            shell,
            place,
            threaded=threaded,
            random=random,
            unix_time=unix_time,
            joining=joining,
        )
    except BaseException:
        directory.close()
        raise
    return Member(replica, directory)


def open_replica(
    settings: MemberSettings,
    plugins: Makers,
    shell: Shell,
    place: Place,
    *,
    threaded: bool,
    random: Random,
    unix_time: float,
    joining: Joining | None = None,
) -> Replica:
    """The same for a place that is locked already, such as a simulated disk.

    Raises: as ``open_member``.
    """
    opened: list[Callable[[], None]] = []
    try:
        backend = plugins.make_backend(
            settings.backend.name,
            place.backend,
            tables.KEYSPACES,
            dict(settings.backend.options),
        )
        opened.append(backend.close)
        initial: list[membership_pb2.Member] = []
        if joining is None and settings.initial_cluster_state == "existing":
            joining = KNOWN_TO_ITS_LOG
        elif joining is None:
            initial = initial_members(settings)
            own_id = next(
                m.ID for m in initial if m.member_attributes.name == settings.name
            )
            joining = Joining(own_id, ids.cluster_id(m.ID for m in initial))
        wal = plugins.make_wal(
            settings.wal.name,
            place.wal,
            entries.encode_metadata(joining.member_id, joining.cluster_id),
            threaded,
            dict(settings.wal.options),
        )
        opened.append(wal.close)
        finish_install(backend, wal, place.inbox)
        store = Store(
            backend,
            StoreOptions(
                compaction_batch_limit=settings.compaction_batch_limit,
                flush_events=settings.flush_events,
                flush_interval_s=settings.flush_interval_s,
            ),
        )
        return _replica_of(
            settings,
            plugins,
            shell,
            random,
            unix_time,
            backend,
            wal,
            store,
            place.inbox,
            initial,
        )
    except BaseException:
        for close in reversed(opened):
            close()
        raise


def _replica_of(
    settings: MemberSettings,
    plugins: Makers,
    shell: Shell,
    random: Random,
    unix_time: float,
    backend: Backend,
    wal: Wal,
    store: Store,
    inbox: Inbox,
    initial: list[membership_pb2.Member],
) -> Replica:
    recovery = wal.recovery()
    own_id, cluster_id = entries.decode_metadata(recovery.metadata)
    if not own_id:
        raise ConfigError(
            f"data directory {settings.data_dir} is of a start that never finished; "
            "remove it and start again"
        )
    hard_state = recovery.hard_state
    if initial and wal.last_index() == 0 and store.applied_index == 0:
        hard_state = _bootstrap(wal, initial)
    _check_fit(settings.data_dir, wal, store)
    if settings.force_new_cluster and wal.last_index():
        hard_state = force_new_cluster(wal, store, own_id, settings.peer_urls)
    if recovery.truncated_bytes:
        LOG.warn("cut a torn tail", bytes=recovery.truncated_bytes)
    consensus = plugins.make_consensus(
        settings.consensus.name,
        ConsensusStart(
            id=own_id,
            hard_state=hard_state,
            conf_state=Cluster(store).conf_state() or ConfState(),
            applied=store.applied_index,
            log=wal,
            random=random,
            election_ticks=_election_ticks(settings),
        ),
        dict(settings.consensus.options),
    )
    started = shell.clock.now()
    lessor = _make_lessor(settings, store, shell, random)
    hub = WatchHub(
        store,
        shell.clock,
        WatchOptions(
            notify_interval_s=settings.progress_notify_s,
            fragment_bytes=settings.max_request_bytes + 512 * 1024,
        ),
        random=random,
    )

    def wall_now() -> float:
        return unix_time + shell.clock.now() - started

    auth = AuthStore(
        store,
        clock=shell.clock,
        random=random,
        token_ttl_s=settings.auth_token_ttl_s,
        bcrypt_cost=settings.bcrypt_cost,
        auth_token=settings.auth_token,
        certificate_users=settings.certificate_users,
        wall_now=wall_now,
    )
    seed = own_id ^ (int(unix_time * 1000) << 20)
    parts = Parts(backend, store, wal, consensus, hub, lessor, auth, inbox)
    return Replica(settings, parts, shell, own_id, cluster_id, seed, wall_now)


def _make_lessor(
    settings: MemberSettings, store: Store, shell: Shell, random: Random
) -> Lessor:
    min_ttl = -(-3 * settings.election_timeout_s // 2)
    return Lessor(
        store,
        shell.clock,
        min_ttl_s=int(min_ttl),
        random=random,
        checkpoints=settings.lease_checkpoints,
    )


def initial_members(settings: MemberSettings) -> list[membership_pb2.Member]:
    """The members that a new cluster starts with.

    Raises:
        ConfigError: the settings' own name is not among them, or its URLs differ.
    """
    cluster = dict(settings.initial_cluster) or {settings.name: settings.peer_urls}
    own = cluster.get(settings.name)
    if own is None:
        raise ConfigError(
            f"--initial-cluster does not name this member {settings.name!r}; "
            f"it names {', '.join(sorted(cluster))}"
        )
    if sorted(own) != sorted(settings.peer_urls):
        raise ConfigError(
            f"--initial-cluster has {settings.name}={','.join(own)} but "
            f"--initial-advertise-peer-urls is {','.join(settings.peer_urls)}; "
            "make them equal"
        )
    members = [
        membership_pb2.Member(
            ID=ids.member_id(urls, settings.cluster_token),
            raft_attributes=membership_pb2.RaftAttributes(peer_urls=sorted(urls)),
            member_attributes=membership_pb2.Attributes(name=name),
        )
        for name, urls in cluster.items()
    ]
    return sorted(members, key=lambda member: member.ID)


def _bootstrap(wal: Wal, initial: list[membership_pb2.Member]) -> HardState:
    """Write the membership entries of a new cluster (rule 3)."""
    batch: list[Entry] = []
    for index, member in enumerate(initial, start=1):
        step = ConfChangeSingle(ConfChangeType.ADD_NODE, member.ID)
        kind, data = encode_conf_change(
            ConfChange((step,), context=member_context(member))
        )
        batch.append(Entry(BOOTSTRAP_TERM, index, data, kind))
    hard_state = HardState(term=BOOTSTRAP_TERM, vote=0, commit=len(batch))
    wal.append(hard_state, batch)
    wal.sync()
    return hard_state


def _check_fit(path: Path, wal: Wal, store: Store) -> None:
    """Rules 1 and 2."""
    applied, first, last = store.applied_index, wal.first_index(), wal.last_index()
    if applied > last:
        raise CorruptionError(
            f"data directory {path}: the backend has applied entry {applied} but the "
            f"write-ahead log ends at {last}; the log is incomplete - restore it, or "
            "start from a snapshot"
        )
    if first > applied + 1:
        raise CorruptionError(
            f"data directory {path}: the backend needs log entry {applied + 1} but the "
            f"write-ahead log begins at {first}; the backend is incomplete - restore "
            "it, or start from a snapshot"
        )


def _election_ticks(settings: MemberSettings) -> int:
    return max(2, round(settings.election_timeout_s / settings.heartbeat_s))


def _attributes(settings: MemberSettings) -> membership_pb2.Attributes:
    """What a member says of itself to clients."""
    return membership_pb2.Attributes(
        name=settings.name, client_urls=settings.client_urls
    )


def is_announced(replica: Replica) -> bool:
    """Whether the cluster knows this member's name and client URLs."""
    known = replica.cluster.member(replica.member_id)
    wanted = _attributes(replica.settings)
    return known is not None and known.member_attributes == wanted


def announce(replica: Replica, announced: Callable[[], None]) -> None:
    """Propose this member's name and client URLs if the cluster does not know them.

    ``announced`` is called once, when they are known or cannot be made known now.
    """
    if replica.cluster.member(replica.member_id) is None or is_announced(replica):
        announced()
        return
    request = membership_pb2.ClusterMemberAttrSetRequest(
        member_ID=replica.member_id, member_attributes=_attributes(replica.settings)
    )

    def done(result: ApplyResult | Exception) -> None:
        if isinstance(result, Exception):
            LOG.warn("attributes not announced", error=f"{result}")
        announced()

    replica.propose_internal(Tag.CLUSTER_MEMBER_ATTR_SET, request, done)


def close_member(member: Member) -> None:
    """Stop the replica and close everything, making all of it durable.

    After a failure nothing more is written, and closing is as quiet as it can be: what
    went wrong is in ``Replica.failure`` and was told to everybody who waited.

    Raises:
        StorageError: the last flush or sync failed; everything is closed all the same.
    """
    replica, directory = member
    failed = replica.failure is not None
    replica.stop()
    with ExitStack() as closing:
        closing.callback(directory.close)
        for close in (replica.backend.close, replica.wal.close, replica.store.close):
            closing.callback(_quietly(close) if failed else close)
        if not failed:
            replica.housekeeping.flush_at_close()


def _quietly(close: Callable[[], None]) -> Callable[[], None]:
    def closed() -> None:
        with suppress(StorageError):
            close()

    return closed
