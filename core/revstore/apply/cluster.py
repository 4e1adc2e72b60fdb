"""The replicated membership: who belongs to the cluster, and who never may again.

Rows of the keyspace "cluster": ``m`` + member id -> membershippb.Member; ``r`` +
member id -> nothing, the tombstone of a removed member; ``l`` + member id -> the
membershippb.Member of a removed one that decides until a joint phase is over, and must
be reached until then; ``conf`` -> raftpb.ConfState;
``version`` -> the cluster version; ``downgrade`` -> the version to go back to, while a
downgrade is running.
"""

from __future__ import annotations

import json
from struct import pack

from revstore.api import errors
from revstore.errors import ApiError, CorruptionError
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
)
from revstore.mvcc import tables
from revstore.mvcc.store import Store
from revstore.proto import membership_pb2, raft_pb2, rpc_pb2
from revstore.types import ConfState, Entry, EntryType

MEMBER, REMOVED, CONF, VERSION = b"m", b"r", b"conf", b"version"
LEAVING = b"l"
DOWNGRADE = b"downgrade"


def member_context(member: membership_pb2.Member) -> bytes:
    """A member as etcd puts it into a membership change: JSON."""
    fields: dict[str, object] = {"id": member.ID}
    fields["peerURLs"] = list(member.raft_attributes.peer_urls)
    if member.raft_attributes.is_learner:
        fields["isLearner"] = True
    if member.member_attributes.name:
        fields["name"] = member.member_attributes.name
    if member.member_attributes.client_urls:
        fields["clientURLs"] = list(member.member_attributes.client_urls)
    return json.dumps(fields, separators=(",", ":")).encode()


def parse_member_context(context: bytes) -> membership_pb2.Member | None:
    """The member of a membership change, None if it carries none.

    Raises:
        CorruptionError: the context is not what ``member_context`` makes.
    """
    if not context:
        return None
    try:
        fields = json.loads(context)
        return membership_pb2.Member(
            ID=fields["id"],
            raft_attributes=membership_pb2.RaftAttributes(
                peer_urls=fields.get("peerURLs") or [],
                is_learner=bool(fields.get("isLearner")),
            ),
            member_attributes=membership_pb2.Attributes(
                name=fields.get("name", ""), client_urls=fields.get("clientURLs") or []
            ),
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise CorruptionError(f"membership change is damaged: {exc}") from exc


def encode_conf_change(change: ConfChange) -> tuple[EntryType, bytes]:
    """A membership change as log entry; one auto step uses etcd's V1 form."""
    if len(change.changes) == 1 and change.transition == ConfChangeTransition.AUTO:
        step = change.changes[0]
        one = raft_pb2.ConfChange(
            id=0,
            type=int(step.type),  # type: ignore[arg-type] # open enum
            node_id=step.node_id,
            context=change.context,
        )
        return EntryType.CONF_CHANGE, one.SerializeToString()
    many = raft_pb2.ConfChangeV2(
        transition=int(change.transition),  # type: ignore[arg-type] # open enum
        changes=[
            raft_pb2.ConfChangeSingle(type=int(step.type), node_id=step.node_id)  # type: ignore[arg-type] # open enum
            for step in change.changes
        ],
        context=change.context,
    )
    return EntryType.CONF_CHANGE_V2, many.SerializeToString()


def decode_conf_change(entry: Entry) -> ConfChange:
    """The membership change of a log entry."""
    if entry.type == EntryType.CONF_CHANGE:
        one = raft_pb2.ConfChange.FromString(entry.data)
        step = ConfChangeSingle(ConfChangeType(one.type), one.node_id)
        return ConfChange((step,), context=one.context)
    many = raft_pb2.ConfChangeV2.FromString(entry.data)
    return ConfChange(
        tuple(
            ConfChangeSingle(ConfChangeType(step.type), step.node_id)
            for step in many.changes
        ),
        ConfChangeTransition(many.transition),
        many.context,
    )


def decode_conf_state(row: bytes) -> ConfState:
    """The stored membership of consensus."""
    stored = raft_pb2.ConfState.FromString(row)
    return ConfState(
        tuple(stored.voters),
        tuple(stored.learners),
        tuple(stored.voters_outgoing),
        tuple(stored.learners_next),
        stored.auto_leave,
    )


class Cluster:
    """The membership as of the last applied entry."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version: str | None = None
        """The newest, None where it must be read: every call asks for it."""

    def reload(self) -> None:
        """The store holds another state now: read again what is asked for."""
        self._version = None

    def members(self) -> list[membership_pb2.Member]:
        """All members by id."""
        rows = self._store.system_scan(tables.CLUSTER, MEMBER, b"n")
        return [membership_pb2.Member.FromString(value) for _, value in rows]

    def leaving(self) -> list[membership_pb2.Member]:
        """The removed ones that decide until the joint phase is over, by id."""
        rows = self._store.system_scan(tables.CLUSTER, LEAVING, MEMBER)
        return [membership_pb2.Member.FromString(value) for _, value in rows]

    def member(self, member_id: int) -> membership_pb2.Member | None:
        """One member, None if it is unknown or removed."""
        row = self._store.system_get(tables.CLUSTER, MEMBER + pack(">Q", member_id))
        return None if row is None else membership_pb2.Member.FromString(row)

    def is_removed(self, member_id: int) -> bool:
        """Whether the id belonged to a member that was removed; it may be leaving."""
        key = REMOVED + pack(">Q", member_id)
        return self._store.system_get(tables.CLUSTER, key) is not None

    def api_members(self) -> list[rpc_pb2.Member]:
        """All members in the API's form."""
        return [
            rpc_pb2.Member(
                ID=member.ID,
                name=member.member_attributes.name,
                peerURLs=member.raft_attributes.peer_urls,
                clientURLs=member.member_attributes.client_urls,
                isLearner=member.raft_attributes.is_learner,
            )
            for member in self.members()
        ]

    def conf_state(self) -> ConfState | None:
        """The membership of consensus at the applied index, None before the first."""
        row = self._store.system_get(tables.CLUSTER, CONF)
        return None if row is None else decode_conf_state(row)

    def learners(self) -> frozenset[int]:
        """Who does not vote, at the applied index."""
        conf = self.conf_state()
        return frozenset(conf.learners if conf else ())

    def set_conf_state(self, conf: ConfState) -> None:
        """Remember consensus' membership together with the applied index."""
        message = raft_pb2.ConfState(
            voters=conf.voters,
            learners=conf.learners,
            voters_outgoing=conf.voters_outgoing,
            learners_next=conf.learners_next,
            auto_leave=conf.auto_leave,
        )
        row = message.SerializeToString()
        self._store.system_put(tables.CLUSTER, CONF, row)
        for member in self.leaving():
            if member.ID not in conf.voters_outgoing:
                key = LEAVING + pack(">Q", member.ID)
                self._store.system_delete(tables.CLUSTER, key)

    def refusal(self, change: ConfChange) -> ApiError | None:
        """Why a committed change does not fit the membership it meets, or None.

        Two changes may be proposed at once; the second one is judged only here.
        """
        described = parse_member_context(change.context)
        for step in change.changes:
            known = self.member(step.node_id)
            if self.is_removed(step.node_id):
                return errors.MEMBER_NOT_FOUND
            if step.type in (ConfChangeType.REMOVE_NODE, ConfChangeType.UPDATE_NODE):
                if known is None:
                    return errors.MEMBER_NOT_FOUND
            elif known is not None and not known.raft_attributes.is_learner:
                return errors.MEMBER_EXIST
            if described is not None and self._urls_taken(described):
                return errors.PEER_URL_EXIST
        return None

    def _urls_taken(self, described: membership_pb2.Member) -> bool:
        wanted = set(described.raft_attributes.peer_urls)
        return any(
            wanted & set(member.raft_attributes.peer_urls)
            for member in self.members()
            if member.ID != described.ID
        )

    def apply_change(self, change: ConfChange) -> None:
        """Add, update, promote or remove members as a committed change says."""
        described = parse_member_context(change.context)
        for step in change.changes:
            if step.type == ConfChangeType.REMOVE_NODE:
                self._remove(step.node_id)
                continue
            member = self.member(step.node_id)
            if described is not None and step.node_id == described.ID:
                member = self._described(member, described)
            if member is None:
                continue
            if step.type != ConfChangeType.UPDATE_NODE:
                learner = step.type == ConfChangeType.ADD_LEARNER_NODE
                member.raft_attributes.is_learner = learner
            self._save(member)

    def set_attributes(
        self, request: membership_pb2.ClusterMemberAttrSetRequest
    ) -> None:
        """A member announces its name and client URLs."""
        member = self.member(request.member_ID)
        if member is not None:
            member.member_attributes.CopyFrom(request.member_attributes)
            self._save(member)

    def set_version(self, version: str) -> None:
        """The cluster version that the members agreed on."""
        self._store.system_put(tables.CLUSTER, VERSION, version.encode())
        self._version = None

    def version(self) -> str:
        """The cluster version, empty until it is decided."""
        found = self._version
        if found is None:
            row = self._store.system_get(tables.CLUSTER, VERSION)
            found = self._version = "" if row is None else row.decode()
        return found

    def set_downgrade(self, request: membership_pb2.DowngradeInfoSetRequest) -> None:
        """A downgrade begins, or ends."""
        if request.enabled:
            row = request.ver.encode()
            self._store.system_put(tables.CLUSTER, DOWNGRADE, row)
        else:
            self._store.system_delete(tables.CLUSTER, DOWNGRADE)

    def downgrade_target(self) -> str:
        """The version that a running downgrade goes back to, else empty."""
        row = self._store.system_get(tables.CLUSTER, DOWNGRADE)
        return "" if row is None else row.decode()

    def _described(
        self, known: membership_pb2.Member | None, described: membership_pb2.Member
    ) -> membership_pb2.Member:
        """A new member, or a known one with the peer URLs that the change gives it."""
        if known is None:
            return described
        if described.raft_attributes.peer_urls:
            del known.raft_attributes.peer_urls[:]
            known.raft_attributes.peer_urls.extend(described.raft_attributes.peer_urls)
        return known

    def _remove(self, member_id: int) -> None:
        packed = pack(">Q", member_id)
        row = self._store.system_get(tables.CLUSTER, MEMBER + packed)
        if row is not None:
            # Forgotten in ``set_conf_state``, at once if there is no joint phase.
            self._store.system_put(tables.CLUSTER, LEAVING + packed, row)
        self._store.system_delete(tables.CLUSTER, MEMBER + packed)
        self._store.system_put(tables.CLUSTER, REMOVED + packed, b"")

    def _save(self, member: membership_pb2.Member) -> None:
        key = MEMBER + pack(">Q", member.ID)
        self._store.system_put(tables.CLUSTER, key, member.SerializeToString())
