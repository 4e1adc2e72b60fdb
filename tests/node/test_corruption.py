"""Members that hold different data are found, and the right ones are blamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from revstore.api import errors, hash_run
from revstore.api.replica import Tag
from revstore.errors import ApiError
from revstore.node import corruption
from revstore.node.corruption import WHOLE_CLUSTER, Findings, Report
from revstore.node.replica import Replica
from revstore.proto import rpc_pb2 as r
from tests.node.cluster import VirtualCluster

PERIOD_S = 10.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[VirtualCluster]:
    """Three virtual members that are compared every ten seconds, the first leading."""
    made = VirtualCluster(
        tmp_path, corrupt_check_s=PERIOD_S, compaction_sleep_s=0.0, backend="lmdb"
    )
    made.lead("a")
    yield made
    made.close()


def put(cluster: VirtualCluster, key: bytes, value: bytes = b"v") -> bytes | ApiError:
    """Put through the first member, waited for."""
    call = cluster["a"].call("KV/Put", r.PutRequest(key=key, value=value))
    cluster.until(lambda: call.outcome is not None)
    assert call.outcome is not None
    return call.outcome


def compact(cluster: VirtualCluster, revision: int) -> None:
    """Compact through the first member."""
    call = cluster["a"].call("KV/Compact", r.CompactionRequest(revision=revision))
    cluster.until(lambda: call.outcome is not None)
    call.result()


def breaks(replica: Replica, odd: Callable[[Any], Any]) -> None:
    """From now on a member applies puts in its own way; None drops one."""
    right = replica.machine.apply

    def apply(tag: int, request: Any, info: Any) -> Any:
        if tag == Tag.PUT:
            request = odd(request)
            if request is None:
                return errors.KEY_NOT_FOUND
        return right(tag, request, info)

    replica.machine.apply = apply  # type: ignore[method-assign] # the fault


def other_value(request: Any) -> Any:
    """The fault of a member that stores something else."""
    return r.PutRequest(key=request.key, value=b"odd")


def blamed(cluster: VirtualCluster) -> list[int]:
    """Who has the CORRUPT alarm; all members must agree about that."""
    found = [
        [row.memberID for row in member.replica.alarms.members(r.CORRUPT)]
        for member in cluster.up
    ]
    assert all(one == found[0] for one in found), found
    return found[0]


def member_id(cluster: VirtualCluster, name: str) -> int:
    return cluster[name].replica.member_id


def test_equal_members_raise_nothing(cluster: VirtualCluster) -> None:
    """Puts, deletes and compactions go on and every check finds nothing."""
    for number in range(40):
        put(cluster, b"k%d" % (number % 7))
        if number % 10 == 9:
            compact(cluster, number)
        cluster.advance(1.0)
    assert blamed(cluster) == []


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_odd_member_is_blamed(cluster: VirtualCluster, name: str) -> None:
    """Whoever differs from the majority, leader or not; then nothing is written any
    more, and reads go on (etcd: the applier of a corrupt cluster)."""
    breaks(cluster[name].replica, other_value)
    put(cluster, b"k")
    assert blamed(cluster) == []
    cluster.advance(PERIOD_S + 1)
    assert blamed(cluster) == [member_id(cluster, name)]
    assert put(cluster, b"more") == errors.CORRUPT
    call = cluster["c"].call("KV/Range", r.RangeRequest(key=b"k"))
    cluster.settle()
    assert r.RangeResponse.FromString(call.result()).count == 1
    cluster.advance(3 * PERIOD_S)
    assert blamed(cluster) == [member_id(cluster, name)]


def test_a_member_without_a_revision_is_blamed(cluster: VirtualCluster) -> None:
    """A member that has applied everything and is behind in revisions lost some."""
    breaks(cluster["b"].replica, lambda request: None)
    put(cluster, b"k")
    cluster.advance(PERIOD_S + 1)
    assert blamed(cluster) == [member_id(cluster, "b")]


def test_a_member_with_a_revision_too_many_is_blamed(cluster: VirtualCluster) -> None:
    """Nobody has more revisions than the leader that has applied everything."""
    put(cluster, b"k")
    store = cluster["c"].replica.store
    txn = store.begin()
    txn.put(b"extra", b"", 0)
    txn.commit()
    cluster.advance(PERIOD_S + 1)
    assert blamed(cluster) == [member_id(cluster, "c")]


def test_without_a_majority_the_whole_cluster_is_blamed(tmp_path: Path) -> None:
    """Of two members that differ nobody knows which is right."""
    cluster = VirtualCluster(tmp_path, 2, corrupt_check_s=PERIOD_S)
    try:
        cluster.lead("a")
        breaks(cluster["b"].replica, other_value)
        put(cluster, b"k")
        cluster.advance(PERIOD_S + 1)
        assert blamed(cluster) == [WHOLE_CLUSTER]
    finally:
        cluster.close()


def test_a_member_that_is_away_proves_nothing(cluster: VirtualCluster) -> None:
    """Silence is no difference, and the others are still compared."""
    put(cluster, b"k")
    cluster["c"].paused = True
    cluster.advance(3 * PERIOD_S)
    assert blamed(cluster) == []
    breaks(cluster["b"].replica, other_value)
    put(cluster, b"k2")
    cluster.advance(2 * PERIOD_S)
    # One against one of three: no majority.
    assert blamed(cluster) == [WHOLE_CLUSTER]


def test_a_member_that_lags_is_waited_for(cluster: VirtualCluster) -> None:
    """Being behind is no corruption: a member hashes when it has caught up."""
    cluster.deafen("b")
    put(cluster, b"k")
    leader = cluster["a"].replica
    assert cluster["b"].replica.store.revision < leader.store.revision
    leader.corruption.check()
    cluster.settle()
    cluster.lose_nothing()
    cluster.advance(PERIOD_S)
    assert blamed(cluster) == []


def test_only_the_leader_checks(cluster: VirtualCluster) -> None:
    """Followers answer, and a check that nobody wants is not made."""
    asked = cluster.note_calls()
    cluster.advance(2 * PERIOD_S + 1)
    assert {sender for sender, _ in asked} == {member_id(cluster, "a")}
    assert len(asked) == 4


def test_compactions_are_compared(tmp_path: Path) -> None:
    """What the members found while they compacted differs: the odd one is blamed."""
    cluster = VirtualCluster(
        tmp_path, compact_hash_check_s=5.0, compaction_sleep_s=0.0, backend="lmdb"
    )
    try:
        cluster.lead("a")
        for number in range(5):
            put(cluster, b"k%d" % number)
        compact(cluster, 4)
        cluster.advance(10.0)
        leader = cluster["a"].replica
        assert [one.hash_revision for one in leader.store.compaction_hashes()] == [4]
        assert blamed(cluster) == []
        breaks(cluster["b"].replica, other_value)
        put(cluster, b"k")
        revision = leader.store.revision
        put(cluster, b"k")
        compact(cluster, revision)
        cluster.advance(15.0)
        assert blamed(cluster) == [member_id(cluster, "b")]
    finally:
        cluster.close()


def test_both_checks_get_their_turn(tmp_path: Path) -> None:
    """With equal periods one check came up whenever the other began, and never ran."""
    cluster = VirtualCluster(
        tmp_path,
        corrupt_check_s=5.0,
        compact_hash_check_s=5.0,
        compaction_sleep_s=0.0,
        backend="lmdb",
    )
    try:
        cluster.lead("a")
        for number in range(3):
            put(cluster, b"k%d" % number)
        compact(cluster, 3)
        asked = cluster.note_calls()
        cluster.advance(12.0)
        revisions = {question(payload).revision for _, payload in asked}
        assert revisions == {3, 4}
    finally:
        cluster.close()


def question(payload: bytes) -> corruption.Question:
    """What a call for a hash asks."""
    head = 11 + len(corruption.HASH_KV)
    return corruption._decode_question(payload[head:])


def test_a_compaction_is_compared_once(tmp_path: Path) -> None:
    """When all members agreed about a compaction nobody asks for it again."""
    cluster = VirtualCluster(
        tmp_path, compact_hash_check_s=5.0, compaction_sleep_s=0.0, backend="lmdb"
    )
    try:
        cluster.lead("a")
        put(cluster, b"k")
        put(cluster, b"k")
        compact(cluster, 2)
        asked = cluster.note_calls()
        cluster.advance(20.0)
        assert len(asked) == 2
    finally:
        cluster.close()


def verdict(replica: Replica, cluster: VirtualCluster) -> str:
    """What the check at the start says of a member."""
    found: list[str] = []
    replica.corruption.check_at_start(found.append)
    cluster.until(lambda: bool(found))
    return found[0]


def test_a_member_that_differs_does_not_start(cluster: VirtualCluster) -> None:
    """A member that restarts with other data than the majority is told to go."""
    breaks(cluster["c"].replica, other_value)
    put(cluster, b"k")
    cluster["c"].close()
    cluster["c"].start()
    cluster.advance(2.0)
    text = verdict(cluster["c"].replica, cluster)
    assert "differs at revision 2" in text
    assert "remove its data directory" in text
    assert verdict(cluster["b"].replica, cluster) == ""


def test_a_member_alone_with_nobody_there_starts(cluster: VirtualCluster) -> None:
    """Members that do not answer keep nobody from starting."""
    put(cluster, b"k")
    cluster.cut("c")
    assert verdict(cluster["c"].replica, cluster) == ""


def test_hashing_is_done_in_turns(
    cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash of many rows leaves the loop between its turns, and a member that stops
    gives it up."""
    monkeypatch.setattr(hash_run, "ROWS_PER_TURN", 2)
    for number in range(9):
        put(cluster, b"k%d" % number)
    replica = cluster["b"].replica
    found: list[object] = []
    hash_run.run_hash(replica, replica.store.hash_kv_job(0), found.append)
    assert found == []
    cluster["b"].run_due()
    turns = 1
    while not found:
        cluster["b"].run_due()
        turns += 1
        assert turns < 20
    assert found == [replica.store.hash_kv(0)]
    hash_run.run_hash(
        replica, replica.store.hash_kv_job(0), found.append, lambda: replica.stopped
    )
    replica.stop()
    cluster["b"].run_due()
    assert len(found) == 1


def test_questions_are_checked_and_bounded(
    cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nonsense is refused, a compacted revision is an error, and hashes that run at
    once are few."""
    monkeypatch.setattr(corruption, "HASHES_MAX", 1)
    put(cluster, b"k")
    put(cluster, b"k")
    compact(cluster, 3)
    cluster.settle()
    answers: list[bytes | ApiError] = []

    def ask(body: bytes) -> None:
        target = member_id(cluster, "b")
        calls = cluster["a"].replica.calls
        calls.call(target, corruption.HASH_KV, body, 99.0, answers.append)
        cluster.settle()

    encode = corruption._encode
    ask(b"\xc1")
    ask(encode(corruption.Question(revision=2, applied=1)))
    assert isinstance(answers[0], ApiError)
    assert answers[0].code == errors.Code.INVALID_ARGUMENT
    assert answers[1] == errors.COMPACTED
    ask(encode(corruption.Question(revision=2, applied=1, compaction=True)))
    assert answers.pop() == corruption.NO_COMPACTION
    never = encode(corruption.Question(revision=9, applied=99))
    ask(never)
    ask(never)
    assert answers[2:] == [errors.TOO_MANY_REQUESTS]
    cluster.advance(8.0)
    assert answers[3:] == [errors.TIMEOUT_WAIT_APPLIED_INDEX]


def findings(own: int, others: dict[int, Report], members: int) -> Findings:
    """A comparison of member 1 at revision 9, compacted at 4."""
    return Findings(9, 1, Report(own, 4, 9), others, members)


@pytest.mark.parametrize(
    ("others", "members", "odd"),
    [
        ({2: Report(7, 4, 9), 3: Report(7, 4, 9)}, 3, set()),
        ({2: Report(8, 4, 9), 3: Report(7, 4, 9)}, 3, {2}),
        ({2: Report(8, 4, 9), 3: Report(8, 4, 9)}, 3, {1}),
        ({2: Report(8, 4, 9), 3: Report(9, 4, 9)}, 3, {WHOLE_CLUSTER}),
        ({2: Report(8, 4, 9)}, 3, {WHOLE_CLUSTER}),
        ({2: Report(8, 5, 9), 3: Report(7, 4, 9)}, 3, set()),
        ({2: Report(0, 5, 8, missing=True), 3: Report(7, 4, 9)}, 3, {2}),
        ({2: Report(7, 4, 9), 3: Report(7, 4, 9), 4: Report(8, 4, 9)}, 5, {4}),
        ({2: Report(8, 4, 9), 3: Report(7, 4, 9), 4: Report(8, 4, 9)}, 4, {0}),
    ],
)
def test_verdicts(others: dict[int, Report], members: int, odd: set[int]) -> None:
    """A majority of all members is right; other compact revisions do not count."""
    assert findings(7, others, members).odd() == odd


def test_who_is_ahead_of_the_leader() -> None:
    """More revisions or compactions than the leader has nobody."""
    reports = {2: Report(7, 4, 11), 3: Report(7, 6, 9), 4: Report(7, 4, 10)}
    assert findings(7, reports, 4).ahead(10, 5) == {2, 3}
