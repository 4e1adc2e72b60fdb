"""What a replica says of itself: the read-only part of ``revstore.api.replica``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from revstore.api import errors
from revstore.api.replica import ReplicaStatus
from revstore.apply.alarms import Alarms
from revstore.apply.cluster import Cluster
from revstore.auth.info import AuthInfo
from revstore.auth.store import AuthStore
from revstore.interfaces.consensus import Consensus, Role
from revstore.mvcc.store import Store
from revstore.node.headers import Headers
from revstore.node.settings import MemberSettings
from revstore.proto import rpc_pb2
from revstore.version import ETCD_API_VERSION


class ReplicaFacts:
    """Facts; the fields are set by ``Replica``."""

    send_call: Callable[[int, bytes], bool] | None = None
    """Where calls of other members go (``revstore.peer.calls``), and answers to theirs:
    member, payload; whether it was taken. Set by whoever has peers, who hands what
    comes back to ``receive_call``. Nothing may arrive twice."""
    reaches: Callable[[int], bool] | None = None
    """Whether a member can be reached now, as far as its link knows; set likewise."""
    on_members: Callable[[], None] | None = None
    """Called when the applied membership has changed; set likewise."""
    on_leader_lost: Callable[[], None] | None = None
    """Called when no leader was known for three election timeouts."""

    settings: MemberSettings
    store: Store
    consensus: Consensus
    auth: AuthStore
    alarms: Alarms
    cluster: Cluster
    member_id: int
    role: Role
    leader: int
    is_learner: bool
    """Whether this member does not vote, as of the applied membership."""
    _headers: Headers
    _term: int
    _commit: int
    _applied: int

    @property
    def name(self) -> str:
        """The member's configured name."""
        return self.settings.name

    @property
    def max_txn_ops(self) -> int:
        """Operations allowed in one transaction."""
        return self.settings.max_txn_ops

    @property
    def max_request_bytes(self) -> int:
        """Largest proposal in bytes."""
        return self.settings.max_request_bytes

    @property
    def quota_bytes(self) -> int:
        """Bound on the backend's size in bytes; 0 or less means none."""
        return self.settings.quota_bytes

    @property
    def strict_reconfig_check(self) -> bool:
        """Whether changes that endanger the quorum are refused."""
        return self.settings.strict_reconfig_check

    @property
    def multi_member(self) -> bool:
        """Whether the consensus plugin can have more than one member."""
        return self.consensus.capabilities.multi_member

    @property
    def is_leader(self) -> bool:
        """Whether this member leads."""
        return self.role == Role.LEADER

    def starts_alone(self) -> bool:
        """Whether neither settings nor data know of another member. Raises: nothing."""
        settings = self.settings
        named = set(settings.initial_cluster) - {settings.name}
        joins = settings.initial_cluster_state == "existing"
        return not named and not joins and len(self.cluster.members()) < 2

    @property
    def applied(self) -> int:
        """Index of the last applied entry."""
        return self._applied

    @property
    def term(self) -> int:
        """The current term."""
        return self._term

    @property
    def cluster_version(self) -> str:
        """Version that the members agreed on."""
        return self.cluster.version() or ETCD_API_VERSION

    def members(self) -> list[rpc_pb2.Member]:
        """All members, ordered by id."""
        return self.cluster.api_members()

    def header(self, revision: int = 0) -> bytes:
        """The tagged bytes of a response's header."""
        return self._headers.with_revision(revision or self.store.revision)

    def header_no_revision(self) -> bytes:
        """The same without a revision."""
        return self._headers.without_revision()

    def authenticate(self, metadata: Mapping[str, str]) -> AuthInfo | None:
        """Who the metadata's token belongs to. Raises: ApiError."""
        return self.auth.authenticate(metadata)

    def status(self) -> ReplicaStatus:
        """The member as seen from outside."""
        found = [] if self.leader else [errors.NO_LEADER.message]
        found += [
            f"memberID:{alarm.memberID} alarm:{rpc_pb2.AlarmType.Name(alarm.alarm)} "
            for alarm in self.alarms.members()
        ]
        return ReplicaStatus(
            version=ETCD_API_VERSION,
            db_size=self.store.size_bytes,
            db_size_in_use=self.store.size_in_use_bytes,
            leader=self.leader,
            raft_index=self._commit,
            raft_term=self._term,
            raft_applied_index=self._applied,
            errors=tuple(found),
            is_learner=self.is_learner,
            storage_version=ETCD_API_VERSION.rsplit(".", 1)[0] + ".0",
            quota=self.quota_bytes,
            downgrade_target=self.cluster.downgrade_target(),
        )
