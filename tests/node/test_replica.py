"""The replica under a virtual shell: the order of durable, applied and answered."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from revstore.api import errors
from revstore.api.replica import Tag
from revstore.errors import ApiError, ConfigError, CorruptionError, StorageError
from revstore.node.settings import PluginChoice
from revstore.proto import membership_pb2, rpc_pb2
from revstore.types import ApplyResult
from tests.node.virtual import VirtualShell


def test_nothing_is_answered_before_it_is_durable(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """A single member acknowledged before its log was synced (etcd #14370)."""
    shell.open(tmp_path)
    shell.settle()
    answers = shell.put(b"k", b"v")
    shell.replica.pump()
    assert answers == []
    assert shell.replica.store.get(b"k") is None
    shell.replica.wal.sync()
    shell.replica.pump()
    assert answers == [ApplyResult(2)]
    assert shell.replica.store.get(b"k") is not None


def test_a_batch_gathers_while_another_syncs(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """Proposals made while a batch waits for the disk go into later appends, in order."""
    shell.open(tmp_path)
    shell.settle()
    first = shell.put(b"a")
    shell.replica.pump()
    second = shell.put(b"b")
    third = shell.put(b"c")
    shell.replica.pump()
    shell.replica.wal.sync()
    shell.replica.pump()
    revisions = [answer[0].revision for answer in (first, second, third)]
    assert revisions == [2, 3, 4]


def test_reads_wait_for_the_first_entry_of_the_term(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """A read is not served before the log that a crash left behind is applied."""
    shell.open(tmp_path)
    shell.settle()
    shell.put(b"k", b"v")
    shell.settle()
    shell.crash()
    replica = shell.open(tmp_path)
    seen: list[Any] = []
    replica.read(lambda error: seen.append((error, replica.store.get(b"k"))))
    replica.pump()
    assert seen == []
    shell.settle()
    assert seen
    assert seen[0][0] is None
    assert seen[0][1] is not None


@pytest.mark.parametrize("backend", ["memory", "lmdb", "rocksdb"])
def test_a_crash_loses_nothing_acknowledged(
    shell: VirtualShell, tmp_path: Path, backend: str
) -> None:
    """What was answered is there after a crash, whatever the backend had flushed."""
    shell.open(tmp_path, backend=backend)
    shell.settle()
    for number in range(50):
        shell.put(b"k%d" % number, b"v")
        shell.settle()
        if number == 20:
            shell.advance(0.3)
    before = shell.replica.store.hash_kv(0)
    term = shell.replica.term
    shell.crash()
    replica = shell.open(tmp_path, backend=backend)
    shell.settle()
    assert replica.store.revision == 51
    assert replica.store.hash_kv(0) == before
    assert replica.term == term + 1


def test_ids_are_those_of_etcd(shell: VirtualShell, tmp_path: Path) -> None:
    """With etcd's defaults the member and the cluster have the ids etcd gives them."""
    replica = shell.open(tmp_path)
    assert replica.member_id == 0x8E9E05C52164694D
    assert replica.cluster_id == 0xCDF818194E3A8C32


def test_a_request_over_the_limit_is_refused(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """A proposal larger than max_request_bytes is refused and changes nothing."""
    shell.open(tmp_path, max_request_bytes=1000)
    shell.settle()
    answers = shell.put(b"k", b"v" * 1000)
    assert answers == [errors.REQUEST_TOO_LARGE]
    shell.settle()
    assert shell.replica.store.revision == 1


def test_a_failed_sync_stops_the_replica_for_good(
    shell: VirtualShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync every waiter is told and nothing is answered any more."""
    replica = shell.open(tmp_path)
    shell.settle()

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "disk gone")

    monkeypatch.setattr(os, "fdatasync", fail)
    answers = shell.put(b"k")
    replica.pump()
    with pytest.raises(StorageError):
        replica.wal.sync()
    replica.pump()
    monkeypatch.undo()
    assert replica.stopped
    assert isinstance(answers[0], ApiError)
    assert answers[0].code == errors.Code.UNAVAILABLE
    assert "disk gone" in answers[0].message
    later = shell.put(b"l")
    assert isinstance(later[0], ApiError)


def test_a_lease_expires_and_takes_its_keys(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """The leader revokes an expired lease by an ordinary proposal."""
    shell.open(tmp_path)
    shell.settle()
    shell.propose(Tag.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(TTL=5, ID=7))
    shell.settle()
    shell.put(b"k", b"v", lease=7)
    shell.settle()
    shell.advance(4.0)
    assert shell.replica.store.get(b"k") is not None
    shell.advance(3.0)
    assert shell.replica.store.get(b"k") is None
    assert not shell.replica.store.lease_exists(7)


def test_leases_start_anew_with_a_new_leader(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """After a restart a lease lives its full time again, never a shorter one."""
    shell.open(tmp_path)
    shell.settle()
    shell.propose(Tag.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(TTL=5, ID=7))
    shell.settle()
    shell.advance(4.0)
    shell.crash()
    shell.open(tmp_path)
    shell.settle()
    shell.advance(4.5)
    assert shell.replica.store.lease_exists(7)
    shell.advance(4.0)
    assert not shell.replica.store.lease_exists(7)


def test_an_alarm_refuses_puts_until_it_is_cleared(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """NOSPACE refuses what grows the store, on every path, and survives a restart."""
    shell.open(tmp_path)
    shell.settle()
    raised = rpc_pb2.AlarmRequest(action=1, memberID=3, alarm=1)  # type: ignore[arg-type]
    shell.propose(Tag.ALARM, raised)
    shell.settle()
    put = shell.put(b"k")
    shell.settle()
    assert put == [errors.NO_SPACE]
    shell.crash()
    shell.open(tmp_path)
    shell.settle()
    again = shell.put(b"k")
    shell.settle()
    assert again == [errors.NO_SPACE]
    cleared = rpc_pb2.AlarmRequest(action=2, memberID=3, alarm=1)  # type: ignore[arg-type]
    shell.propose(Tag.ALARM, cleared)
    last = shell.put(b"k")
    shell.settle()
    assert last == [ApplyResult(2)]


def test_the_quota_raises_the_alarm_once(shell: VirtualShell, tmp_path: Path) -> None:
    """A write that would pass the quota makes the member raise NOSPACE."""
    replica = shell.open(tmp_path, quota_bytes=1000)
    shell.settle()
    assert replica.has_space(10)
    assert not replica.has_space(2000)
    assert not replica.has_space(2000)
    shell.settle()
    alarms = replica.alarms.members()
    assert [alarm.memberID for alarm in alarms] == [replica.member_id]


def test_the_log_is_purged_behind_what_the_backend_has_synced(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """The log keeps every entry that the backend could still need after a crash."""
    shell.open(
        tmp_path,
        backend="lmdb",
        snapshot_count=20,
        catchup_entries=5,
    )
    shell.settle()
    for number in range(100):
        shell.put(b"k%d" % number)
        shell.settle()
        shell.clock.time += 0.2
        shell.replica.tick()
        shell.settle()
    recovered = shell.replica.store.durable_index
    assert recovered >= 80
    assert shell.replica.wal.first_index() <= recovered - 5
    shell.crash()
    replica = shell.open(tmp_path, backend="lmdb")
    shell.settle()
    assert replica.store.revision == 101


def test_a_backend_ahead_of_its_log_is_refused(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """A log that lost entries which the backend has applied is an error, not a start."""
    shell.open(tmp_path, backend="lmdb")
    shell.settle()
    for number in range(5):
        shell.put(b"k%d" % number)
        shell.settle()
    shell.close()
    for file in (tmp_path / "member" / "wal").iterdir():
        file.unlink()
    with pytest.raises(CorruptionError, match="write-ahead log ends at"):
        VirtualShell().open(tmp_path, backend="lmdb")


def test_another_backend_than_the_one_that_made_the_data_is_refused(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """A directory made with one backend is not opened with another."""
    shell.open(tmp_path, backend="lmdb")
    shell.close()
    with pytest.raises(ConfigError, match="made with backend 'lmdb'"):
        VirtualShell().open(tmp_path, backend="rocksdb")


def test_proposals_time_out(shell: VirtualShell, tmp_path: Path) -> None:
    """A proposal whose log never becomes durable ends with etcd's time-out."""
    shell.open(tmp_path)
    shell.settle()
    answers = shell.put(b"k")
    shell.replica.pump()
    shell.clock.time += 8.0
    shell.replica.tick()
    assert answers == [errors.TIMEOUT]


def test_old_revisions_are_compacted_by_themselves(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """Mode "revision" keeps the newest N revisions, looked at every five minutes."""
    shell.open(
        tmp_path,
        auto_compaction_mode="revision",
        auto_compaction_retention=3,
        heartbeat_s=10.0,
    )
    shell.settle()
    for number in range(10):
        shell.put(b"k%d" % number)
        shell.settle()
    shell.advance(310.0)
    assert shell.replica.store.compact_revision == 8


def test_a_slow_disk_does_not_restart_the_campaign_of_one(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """The only voter campaigned anew at each tick, and never won on a slow disk."""
    replica = shell.open(tmp_path, consensus=PluginChoice("raft"))
    replica.pump()
    for _ in range(5):
        shell.clock.time += 0.1
        replica.tick()
    assert replica.consensus.status().term == 2
    shell.settle()
    assert replica.is_leader
    answers = shell.put(b"k")
    shell.settle()
    assert answers == [ApplyResult(2)]


def test_a_lost_leader_is_told_once(shell: VirtualShell, tmp_path: Path) -> None:
    """Streams that need a leader are ended after three election timeouts without one."""
    replica = shell.open(
        tmp_path,
        consensus=PluginChoice("raft"),
        name="a",
        initial_cluster={"a": ("http://a:1",), "b": ("http://b:1",)},
        peer_urls=("http://a:1",),
    )
    told: list[float] = []
    replica.on_leader_lost = lambda: told.append(shell.clock.time)
    start = shell.clock.time
    shell.advance(10.0)
    assert len(told) == 1
    assert 3.0 <= told[0] - start <= 3.3


def test_a_downgrade_is_remembered(shell: VirtualShell, tmp_path: Path) -> None:
    """A downgrade that was allowed is shown by the status until it is cancelled."""
    shell.open(tmp_path)
    shell.settle()
    begin = membership_pb2.DowngradeInfoSetRequest(enabled=True, ver="3.5.0")
    shell.propose(Tag.DOWNGRADE_INFO_SET, begin)
    shell.settle()
    shell.crash()
    shell.open(tmp_path)
    shell.settle()
    assert shell.replica.status().downgrade_target == "3.5.0"
    end = membership_pb2.DowngradeInfoSetRequest(enabled=False)
    shell.propose(Tag.DOWNGRADE_INFO_SET, end)
    shell.settle()
    assert shell.replica.status().downgrade_target == ""


def test_a_bug_while_applying_stops_the_member(
    shell: VirtualShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that failed half way is applied as a whole after a restart, not skipped."""
    replica = shell.open(tmp_path)
    shell.settle()

    def broken(tag: int, request: object, info: object) -> ApplyResult:
        raise KeyError("bug")

    monkeypatch.setattr(replica.machine, "apply", broken)
    answers = shell.put(b"k", b"v")
    replica.pump()
    replica.wal.sync()
    replica.pump()
    assert replica.stopped
    assert isinstance(answers[0], ApiError)
    shell.crash()
    replica = shell.open(tmp_path)
    shell.settle()
    assert replica.store.get(b"k") is not None


def test_a_waiter_that_fails_harms_nobody_else(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """An exception in one answer's callback does not keep others from theirs."""
    replica = shell.open(tmp_path)
    shell.settle()
    request = rpc_pb2.PutRequest(key=b"a")

    def broken(result: object) -> None:
        raise KeyError("bug")

    replica.propose(Tag.PUT, request.SerializeToString(), request, broken)
    answers = shell.put(b"b")
    shell.settle()
    assert answers == [ApplyResult(3)]
    assert not replica.stopped
