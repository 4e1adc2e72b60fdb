"""A member without log, consensus and time: what is proposed is applied at once.

Everything behind it is real: store, leases, auth, alarms, membership.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from google.protobuf.message import Message

from revstore.api import errors
from revstore.api.inprocess import DirectCall, DirectStream, invoke, open_stream
from revstore.api.replica import (
    Answered,
    Done,
    Finished,
    MemberChange,
    MemberChangeKind,
    ReplicaStatus,
    SnapshotReady,
)
from revstore.api.service import Services, build_table
from revstore.apply.alarms import Alarms
from revstore.apply.cluster import Cluster
from revstore.apply.dispatch import StateMachine
from revstore.auth.info import AuthInfo
from revstore.auth.store import AuthStore
from revstore.errors import ApiError
from revstore.lease.lessor import Lessor
from revstore.mvcc.store import Store
from revstore.mvcc.tables import KEYSPACES
from revstore.node.headers import Headers
from revstore.proto import rpc_pb2
from revstore.watch.hub import WatchHub
from revstore_memory.backend import MemoryBackend

CLUSTER, MEMBER, TERM = 0xC1, 0xA1, 2

M = TypeVar("M", bound=Message)


class StillClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time


class FakeMember:
    """Satisfies ``revstore.api.replica.Replica``."""

    def __init__(self) -> None:
        self.backend = MemoryBackend(KEYSPACES)
        self.store = Store(self.backend)
        self.clock = StillClock()
        random = Random(1)
        self.hub = WatchHub(self.store, self.clock, random=random)
        self.lessor = Lessor(self.store, self.clock, random=random)
        self.lessor.promote(0)
        self.auth = AuthStore(
            self.store, clock=self.clock, random=random, bcrypt_cost=4
        )
        self.alarms = Alarms(self.store)
        self.cluster = Cluster(self.store)
        self.machine = StateMachine(
            self.store, self.lessor, self.auth, self.alarms, self.cluster
        )
        self.headers = Headers(CLUSTER, MEMBER)
        self.headers.set_term(TERM)
        self.name = "a"
        self.member_id = MEMBER
        self.cluster_id = CLUSTER
        self.max_txn_ops = 128
        self.max_request_bytes = 1_572_864
        self.quota_bytes = 0
        self.is_leader = True
        self.leader = MEMBER
        self.is_learner = False
        self.stopped = False
        self.multi_member = False
        self.cluster_version = "3.6.0"
        self.strict_reconfig_check = True
        self.downgrade_target = ""
        self.member_list = [
            rpc_pb2.Member(
                ID=MEMBER,
                name="a",
                peerURLs=["http://127.0.0.1:2380"],
                clientURLs=["http://127.0.0.1:2379"],
            )
        ]
        self.waiting: deque[Callable[[], None]] = deque()
        self.held_reads: list[Finished] | None = None
        """A list while reads are to be held back."""
        self.read_error: ApiError | None = None
        self.to_leader: Callable[[str, bytes, Answered], None] | None = None
        """How it asks the leader; None: it cannot."""
        self.proposals: list[int] = []
        self.changes: list[MemberChange] = []
        self.transfers: list[int] = []
        self.index = 0
        self.services: Services = build_table(self)

    # What a Replica offers.

    def propose(
        self,
        tag: int,
        payload: bytes,
        request: Message,
        done: Done,
        info: Any = None,
    ) -> None:
        self.proposals.append(tag)
        assert type(request).FromString(payload) == request
        found = None if info is None else AuthInfo(info.username, info.revision)
        result = self.machine.apply(tag, request, found)
        self.index += 1
        self.store.set_applied(self.index, TERM)
        self.hub.notify(self.store.drain_events())
        done(result)

    def read(self, done: Finished) -> None:
        if self.held_reads is None:
            done(self.read_error)
        else:
            self.held_reads.append(done)

    def release_reads(self) -> None:
        """Let the reads go on that are held back."""
        held, self.held_reads = self.held_reads or [], None
        for done in held:
            done(None)

    def header(self, revision: int = 0) -> bytes:
        return self.headers.with_revision(revision or self.store.revision)

    def header_no_revision(self) -> bytes:
        return self.headers.without_revision()

    def authenticate(self, metadata: Mapping[str, str]) -> AuthInfo | None:
        return self.auth.authenticate(metadata)

    def has_space(self, cost: int) -> bool:
        return self.quota_bytes <= 0 or cost <= self.quota_bytes

    def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            version="3.6.14",
            db_size=self.store.size_bytes,
            db_size_in_use=self.store.size_in_use_bytes,
            leader=self.leader,
            raft_index=self.index,
            raft_term=TERM,
            raft_applied_index=self.index,
            is_learner=self.is_learner,
            storage_version="3.6.0",
            quota=self.quota_bytes,
            downgrade_target=self.downgrade_target,
        )

    def members(self) -> Sequence[rpc_pb2.Member]:
        return self.member_list

    def ask_leader(self, name: str, message: bytes, answered: Answered) -> None:
        if self.to_leader is None:
            answered(errors.NO_LEADER)
        else:
            self.to_leader(name, message, answered)

    def change_members(self, change: MemberChange, done: Finished) -> None:
        self.changes.append(change)
        if change.kind is MemberChangeKind.ADD:
            new = rpc_pb2.Member(
                ID=0xB1, peerURLs=change.peer_urls, isLearner=change.is_learner
            )
            self.member_list.append(new)
        done(None)

    def transfer_leader(self, target: int, done: Finished) -> None:
        self.transfers.append(target)
        done(None)

    def defragment(self, done: Finished) -> None:
        self.schedule(lambda: done(None))

    def open_snapshot(self, done: SnapshotReady) -> None:
        self.store.flush()
        done(self.backend.snapshot())

    def schedule(self, work: Callable[[], None], delay_s: float = 0.0) -> None:
        self.waiting.append(work)

    def run_in_thread(
        self, work: Callable[[], Any], done: Callable[[Any], None]
    ) -> None:
        try:
            result = work()
        except Exception as error:
            result = error
        self.schedule(lambda: done(result))

    # What tests use.

    def turn(self) -> bool:
        """Run the oldest scheduled work; False if there is none."""
        if not self.waiting:
            return False
        self.waiting.popleft()()
        return True

    def run(self) -> int:
        """Run what is scheduled until nothing is; returns the number of turns."""
        turns = 0
        while self.turn():
            turns += 1
            assert turns < 100_000, "scheduled work goes on for ever"
        return turns

    def begin(
        self, path: str, request: Message | bytes, metadata: Mapping[str, str] = {}
    ) -> DirectCall:
        """Make a unary call without running what it schedules."""
        message = request if isinstance(request, bytes) else request.SerializeToString()
        return invoke(self.services, f"/etcdserverpb.{path}", message, metadata)

    def call(
        self,
        path: str,
        request: Message | bytes,
        response: type[M],
        metadata: Mapping[str, str] = {},
    ) -> M:
        """Make a unary call and everything it schedules. Raises: ApiError."""
        call = self.begin(path, request, metadata)
        self.run()
        return response.FromString(call.result())

    def error(
        self, path: str, request: Message | bytes, metadata: Mapping[str, str] = {}
    ) -> ApiError:
        """The error that a unary call ends with."""
        call = self.begin(path, request, metadata)
        self.run()
        assert isinstance(call.outcome, ApiError), f"{path} gave {call.outcome!r}"
        return call.outcome

    def stream(
        self,
        path: str,
        request: Message,
        metadata: Mapping[str, str] = {},
        queue_messages_max: int = 64,
    ) -> DirectStream:
        """Open a server stream and hand it its request."""
        stream = open_stream(
            self.services, f"/etcdserverpb.{path}", metadata, queue_messages_max
        )
        stream.push(request.SerializeToString())
        return stream

    def put(self, key: bytes, value: bytes = b"", lease: int = 0) -> int:
        """Put a key; returns the revision."""
        request = rpc_pb2.PutRequest(key=key, value=value, lease=lease)
        return self.call("KV/Put", request, rpc_pb2.PutResponse).header.revision

    def close(self) -> None:
        self.store.close()
        self.backend.close()
