"""etcdserverpb.Maintenance: alarms, status, hashes, snapshots, leadership, downgrade.

Rules of this file:

1. Nothing stops the world: hashes, snapshots and defragmentation run in bounded pieces
   or on another thread while requests are served.
2. Everything but Status, AlarmGET and MoveLeader's own checks needs the role root when
   auth is on; those two need any user.
3. Defragment and MoveLeader answer without a header, as etcd does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain

import google_crc32c

from revstore.api import errors
from revstore.api.downgrade import Downgrades
from revstore.api.hash_run import run_hash
from revstore.api.messages import answer_to, identify, identify_admin, parse
from revstore.api.replica import Replica, Tag
from revstore.api.snapshot_stream import SCAN_ROWS, SnapshotStreamer
from revstore.errors import ApiError, StorageError
from revstore.interfaces.backend import Snapshot
from revstore.interfaces.transport import Call, Method, MethodKind
from revstore.mvcc.hashing import HashResult
from revstore.mvcc.tables import KEYSPACES, META
from revstore.proto import rpc_pb2

_parse_alarm = rpc_pb2.AlarmRequest.FromString
_parse_status = rpc_pb2.StatusRequest.FromString
_parse_defragment = rpc_pb2.DefragmentRequest.FromString
_parse_hash = rpc_pb2.HashRequest.FromString
_parse_hash_kv = rpc_pb2.HashKVRequest.FromString
_parse_move_leader = rpc_pb2.MoveLeaderRequest.FromString

_GET = rpc_pb2.AlarmRequest.GET
_CHANGES = (rpc_pb2.AlarmRequest.ACTIVATE, rpc_pb2.AlarmRequest.DEACTIVATE)


def methods(replica: Replica) -> list[Method]:
    """The methods of the service."""
    service = MaintenanceService(replica)
    unary = {
        "Alarm": service.alarm,
        "Status": service.status,
        "Defragment": service.defragment,
        "Hash": service.hash,
        "HashKV": service.hash_kv,
        "MoveLeader": service.move_leader,
        "Downgrade": Downgrades(replica).downgrade,
    }
    found = [
        Method(
            path=f"/etcdserverpb.Maintenance/{name}",
            kind=MethodKind.UNARY,
            unary=function,
        )
        for name, function in unary.items()
    ]
    found.append(
        Method(
            path="/etcdserverpb.Maintenance/Snapshot",
            kind=MethodKind.SERVER_STREAM,
            stream=partial(SnapshotStreamer, replica),
        )
    )
    return found


class MaintenanceService:
    """The unary methods; the arguments of each are those of a ``UnaryFunction``."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def alarm(self, call: Call, message: bytes) -> None:
        """Alarm."""
        replica = self._replica
        try:
            request = parse(_parse_alarm, message)
            if request.action == _GET:
                replica.auth.check_authenticated(identify(replica, call))
                replica.read(partial(self._alarms, call, int(request.alarm)))
                return
            info = identify_admin(replica, call)
            _check_alarm_change(request)
        except ApiError as error:
            call.fail(error)
            return
        done = answer_to(replica, call)
        replica.propose(int(Tag.ALARM), message, request, done, info)

    def _alarms(self, call: Call, alarm: int, error: ApiError | None) -> None:
        if error is not None:
            call.fail(error)
            return
        found = rpc_pb2.AlarmResponse(alarms=self._replica.alarms.members(alarm))
        call.reply(self._replica.header() + found.SerializeToString())

    def status(self, call: Call, message: bytes) -> None:
        """Status; local, also on a learner and without a leader."""
        replica = self._replica
        try:
            parse(_parse_status, message)
            replica.auth.check_authenticated(identify(replica, call))
        except ApiError as error:
            call.fail(error)
            return
        status = replica.status()
        response = rpc_pb2.StatusResponse(
            version=status.version,
            dbSize=status.db_size,
            leader=status.leader,
            raftIndex=status.raft_index,
            raftTerm=status.raft_term,
            raftAppliedIndex=status.raft_applied_index,
            errors=status.errors,
            dbSizeInUse=status.db_size_in_use,
            isLearner=status.is_learner,
            storageVersion=status.storage_version,
            dbSizeQuota=status.quota,
            downgradeInfo=rpc_pb2.DowngradeInfo(
                enabled=bool(status.downgrade_target),
                targetVersion=status.downgrade_target,
            ),
        )
        call.reply(replica.header() + response.SerializeToString())

    def defragment(self, call: Call, message: bytes) -> None:
        """Defragment: give space back while serving goes on."""
        try:
            parse(_parse_defragment, message)
            identify_admin(self._replica, call)
        except ApiError as error:
            call.fail(error)
            return
        self._replica.defragment(_empty_reply(call))

    def hash(self, call: Call, message: bytes) -> None:
        """Hash: a checksum over everything stored, of this member only."""
        try:
            parse(_parse_hash, message)
            identify_admin(self._replica, call)
        except ApiError as error:
            call.fail(error)
            return
        self._replica.open_snapshot(partial(self._hash_snapshot, call))

    def _hash_snapshot(self, call: Call, snapshot: Snapshot | ApiError) -> None:
        if isinstance(snapshot, ApiError):
            call.fail(snapshot)
        else:
            SnapshotHash(self._replica, call, snapshot).step()

    def hash_kv(self, call: Call, message: bytes) -> None:
        """HashKV: etcd's checksum of the key space at a revision."""
        try:
            request = parse(_parse_hash_kv, message)
            identify_admin(self._replica, call)
            job = self._replica.store.hash_kv_job(request.revision)
        except ApiError as error:
            call.fail(error)
            return

        def hashed(result: HashResult | ApiError) -> None:
            if isinstance(result, ApiError):
                call.fail(result)
                return
            response = rpc_pb2.HashKVResponse(
                hash=result.hash,
                compact_revision=result.compact_revision,
                hash_revision=result.hash_revision,
            )
            call.reply(self._replica.header() + response.SerializeToString())

        run_hash(self._replica, job, hashed, call.cancelled)

    def move_leader(self, call: Call, message: bytes) -> None:
        """MoveLeader; only the leader can."""
        replica = self._replica
        try:
            request = parse(_parse_move_leader, message)
            identify_admin(replica, call)
            if not replica.is_leader:
                raise errors.NOT_LEADER.fresh()
            voters = {member.ID for member in replica.members() if not member.isLearner}
            if request.targetID not in voters:
                raise errors.BAD_LEADER_TRANSFEREE.fresh()
        except ApiError as error:
            call.fail(error)
            return
        if request.targetID == replica.member_id:
            call.reply(b"")
        else:
            replica.transfer_leader(request.targetID, _empty_reply(call))


class SnapshotHash:
    """A CRC-32C over all rows of a snapshot, in turns of the loop."""

    def __init__(self, replica: Replica, call: Call, snapshot: Snapshot) -> None:
        self._replica = replica
        self._call = call
        self._snapshot = snapshot
        self._crc = 0
        # META has the applied index in it, which differs between equal members.
        self._rows = chain.from_iterable(
            chain(
                [[(b"", keyspace.encode())]],
                snapshot.scan(keyspace, b"", None, chunk=SCAN_ROWS),
            )
            for keyspace in KEYSPACES
            if keyspace != META
        )

    def step(self) -> None:
        """One chunk of rows; answers after the last."""
        if self._call.cancelled():
            self._snapshot.close()
            return
        try:
            rows = next(self._rows, None)
        except StorageError as error:
            self._snapshot.close()
            self._call.fail(errors.storage_failure(error))
            return
        if rows is None:
            self._snapshot.close()
            response = rpc_pb2.HashResponse(hash=self._crc)
            header = self._replica.header()
            self._call.reply(header + response.SerializeToString())
            return
        data = b"".join(part for row in rows for part in row)
        self._crc = google_crc32c.extend(self._crc, data)
        self._replica.schedule(self.step)


def _check_alarm_change(request: rpc_pb2.AlarmRequest) -> None:
    """Refuse numbers that no version knows; etcd 3.4 crashes on one."""
    if request.action not in _CHANGES:
        text = (
            f"revstore: unknown alarm action {int(request.action)}; "
            "use GET (0), ACTIVATE (1) or DEACTIVATE (2)"
        )
        raise ApiError(errors.Code.INVALID_ARGUMENT, text)
    if request.alarm not in rpc_pb2.AlarmType.values():
        text = (
            f"revstore: unknown alarm type {int(request.alarm)}; "
            "use NOSPACE (1) or CORRUPT (2)"
        )
        raise ApiError(errors.Code.INVALID_ARGUMENT, text)


def _empty_reply(call: Call) -> Callable[[ApiError | None], None]:
    def done(error: ApiError | None) -> None:
        if error is not None:
            call.fail(error)
        else:
            call.reply(b"")

    return done
