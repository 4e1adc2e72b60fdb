"""Fast forms against deliberately simple twins."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
)
from revstore.types import ConfState, Entry, EntryType
from revstore_conformance.scenarios.storage import StubStorage
from revstore_raft.confcodec import decode_change, encode_change
from revstore_raft.inflights import Inflights
from revstore_raft.limits import NO_LIMIT
from revstore_raft.log import RaftLog
from revstore_raft.membership import Changer, InvalidChangeError, restore
from revstore_raft.progress import Progress
from revstore_raft.quorum import (
    VoteResult,
    joint_committed,
    joint_vote,
    majority_committed,
    majority_vote,
)
from revstore_raft.sizes import entries_size, entry_size, limit_size, payload_size
from revstore_raft.tracker import Membership

INDEXES = st.integers(0, 30)
IDS = st.integers(1, 7)
VOTERS = st.sets(IDS, max_size=7)
WINDOW = (4, NO_LIMIT)


def twin_committed(acked: Sequence[int]) -> int:
    """The largest index that more than half of all acknowledged, found by trying."""
    if not acked:
        return NO_LIMIT
    index = 0
    while 2 * sum(one > index for one in acked) > len(acked):
        index += 1
    return index


@given(st.lists(INDEXES, max_size=9))
def test_majority_commit(acked: list[int]) -> None:
    """The committed index is the one found by trying each."""
    assert majority_committed(acked) == twin_committed(acked)


@given(st.lists(INDEXES, max_size=6), st.lists(INDEXES, max_size=6))
def test_joint_commit(incoming: list[int], outgoing: list[int]) -> None:
    """Both halves must have it, whichever is first; an empty one has no opinion."""
    index = joint_committed(incoming, outgoing)
    assert index == min(twin_committed(incoming), twin_committed(outgoing))
    assert index == joint_committed(outgoing, incoming)
    assert joint_committed(incoming, ()) == majority_committed(incoming)
    assert joint_committed(incoming, incoming) == majority_committed(incoming)


@given(st.lists(INDEXES, min_size=1, max_size=7), st.data())
def test_commit_is_monotonous(acked: list[int], data: st.DataObject) -> None:
    """Another acknowledgement never lowers the committed index."""
    position = data.draw(st.integers(0, len(acked) - 1))
    more = list(acked)
    more[position] += data.draw(st.integers(1, 9))
    assert majority_committed(more) >= majority_committed(acked)


def twin_vote(voters: set[int], votes: dict[int, bool]) -> VoteResult:
    """Whether all, some or none of the ways to go on end with a majority for it."""
    outcomes = set()
    missing = sorted(voters - votes.keys())
    for mask in range(1 << len(missing)):
        final = {**votes, **{v: bool(mask >> n & 1) for n, v in enumerate(missing)}}
        granted = sum(final[voter] for voter in voters)
        outcomes.add(2 * granted > len(voters) or not voters)
    if outcomes == {True}:
        return VoteResult.WON
    return VoteResult.LOST if outcomes == {False} else VoteResult.PENDING


@given(VOTERS, st.dictionaries(IDS, st.booleans()))
def test_majority_vote(voters: set[int], votes: dict[int, bool]) -> None:
    """A vote is won or lost once no further answer can change that."""
    assert majority_vote(voters, votes) is twin_vote(voters, votes)


@given(VOTERS, VOTERS, st.dictionaries(IDS, st.booleans()))
def test_joint_vote(one: set[int], other: set[int], votes: dict[int, bool]) -> None:
    """A joint vote is won if both are, lost if one is, and is symmetric."""
    results = {twin_vote(one, votes), twin_vote(other, votes)}
    if VoteResult.LOST in results:
        expected = VoteResult.LOST
    elif results == {VoteResult.WON}:
        expected = VoteResult.WON
    else:
        expected = VoteResult.PENDING
    assert joint_vote(one, other, votes) is expected
    assert joint_vote(other, one, votes) is expected


# ---- memberships ----


STEPS = st.lists(
    st.builds(
        ConfChangeSingle, st.sampled_from(list(ConfChangeType)), st.integers(0, 6)
    ),
    max_size=6,
)


class TwinMembership:
    """A membership as four plain sets, changed one step after the other."""

    def __init__(self, state: ConfState) -> None:
        self.voters = set(state.voters)
        self.learners = set(state.learners)
        self.outgoing = set(state.voters_outgoing)
        self.next = set(state.learners_next)

    def step(self, one: ConfChangeSingle) -> None:
        member = one.node_id
        if member == 0 or one.type == ConfChangeType.UPDATE_NODE:
            return
        if one.type == ConfChangeType.ADD_LEARNER_NODE and member in self.learners:
            return
        self.voters -= {member}
        self.learners -= {member}
        self.next -= {member}
        if one.type == ConfChangeType.ADD_NODE:
            self.voters |= {member}
        elif one.type == ConfChangeType.ADD_LEARNER_NODE:
            (self.next if member in self.outgoing else self.learners).add(member)

    def state(self, auto_leave: bool) -> ConfState:
        return ConfState(
            tuple(sorted(self.voters)),
            tuple(sorted(self.learners)),
            tuple(sorted(self.outgoing)),
            tuple(sorted(self.next)),
            auto_leave,
        )


def twin_change(
    state: ConfState, steps: Sequence[ConfChangeSingle], joint: bool
) -> ConfState | None:
    """The membership behind a change, None if it is not allowed."""
    twin = TwinMembership(state)
    before = set(twin.voters)
    if twin.outgoing or (joint and not before):
        return None
    if joint:
        twin.outgoing = set(before)
    for one in steps:
        twin.step(one)
    if not twin.voters or (not joint and len(twin.voters ^ before) > 1):
        return None
    return twin.state(joint)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("sjl"), STEPS), max_size=8))
def test_memberships(changes: list[tuple[str, list[ConfChangeSingle]]]) -> None:
    """Any sequence of changes gives what plain sets give, and can be restored."""
    membership = Membership()
    progress: dict[int, Progress] = {}
    for index, (kind, steps) in enumerate(changes):
        state = membership.conf_state()
        changer = Changer(membership, progress, index, WINDOW)
        expected: ConfState | None
        if kind == "l":
            twin = TwinMembership(state)
            twin.learners |= twin.next
            joint = bool(twin.outgoing)
            twin.outgoing, twin.next = set(), set()
            expected = twin.state(False) if joint else None
        else:
            expected = twin_change(state, steps, kind == "j")
        before = (membership, {member: row.match for member, row in progress.items()})
        try:
            if kind == "l":
                result = changer.leave_joint()
            elif kind == "j":
                result = changer.enter_joint(True, steps)
            else:
                result = changer.simple(steps)
        except InvalidChangeError:
            assert expected is None
            assert before[0] is membership
            assert before[1] == {member: row.match for member, row in progress.items()}
            continue
        membership, progress = result
        assert membership.conf_state() == expected
        assert restore(membership.conf_state(), index, WINDOW)[0] == membership


@given(st.sets(IDS, min_size=1), STEPS)
def test_simple_changes_keep_quorums_together(
    voters: set[int], steps: list[ConfChangeSingle]
) -> None:
    """Any quorum before a simple change meets any quorum after it."""
    start = restore(ConfState(tuple(sorted(voters))), 1, WINDOW)
    try:
        after, _ = Changer(*start, 1, WINDOW).simple(steps)
    except InvalidChangeError:
        return
    union = voters | after.incoming
    needed = len(voters) // 2 + 1 + len(after.incoming) // 2 + 1
    assert needed > len(union)


@given(
    STEPS,
    st.sampled_from(list(ConfChangeTransition)),
    st.binary(max_size=9),
)
def test_changes_survive_encoding(
    steps: list[ConfChangeSingle], transition: ConfChangeTransition, context: bytes
) -> None:
    """A change is read as it was written, in either form."""
    change = ConfChange(tuple(steps), transition, context)
    assert decode_change(*encode_change(change)) == change


def test_no_bytes_leave_the_joint_phase() -> None:
    """The empty proposal of a leader means the empty change."""
    assert decode_change(EntryType.CONF_CHANGE_V2, b"") == ConfChange()


# ---- sizes and windows ----


ENTRIES = st.lists(
    st.tuples(st.sampled_from((0, 1, 5, 127, 128, 200)), st.booleans()), max_size=12
).map(
    lambda rows: [
        Entry(300 if late else 3, 120 + n, bytes(size))
        for n, (size, late) in enumerate(sorted(rows, key=lambda row: row[1]))
    ]
)


@given(ENTRIES)
def test_sizes(entries: list[Entry]) -> None:
    """The size of a batch is the sum of its entries' encoded sizes."""
    assert entries_size(entries) == sum(entry_size(entry) for entry in entries)
    assert payload_size(entries) == sum(len(entry.data) for entry in entries)


@given(ENTRIES, st.integers(0, 900))
def test_limits(entries: list[Entry], bytes_max: int) -> None:
    """A limited batch is the longest start that fits, and never empty."""
    kept = list(limit_size(entries, bytes_max))
    assert kept == entries[: len(kept)]
    assert bool(kept) == bool(entries)
    assert len(kept) <= 1 or entries_size(kept) <= bytes_max
    if len(kept) < len(entries):
        assert entries_size(entries[: len(kept) + 1]) > bytes_max


@given(
    st.integers(1, 5),
    st.integers(1, 50),
    st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=40),
)
def test_windows(count_max: int, bytes_max: int, steps: list[tuple[bool, int]]) -> None:
    """A window holds what was sent and not acknowledged, up to both bounds."""
    window = Inflights(count_max, bytes_max)
    twin: list[tuple[int, int]] = []
    index = 0
    for sends, number in steps:
        full = len(twin) >= count_max or sum(size for _, size in twin) >= bytes_max
        assert window.full() is full
        if sends and not full:
            index += number
            window.add(index, number)
            twin.append((index, number))
        elif not sends:
            window.free_up_to(index - number)
            twin = [(last, size) for last, size in twin if last > index - number]
        assert window.count() == len(twin)


def test_probing_forgets_what_may_be_lost() -> None:
    """A commit index that was sent optimistically is sent again after a probe."""
    row = Progress(5, Inflights(4, NO_LIMIT))
    row.match = 4
    row.become_replicate()
    row.sent_entries(3, 0)
    row.sent_commit = 7
    assert not row.can_bump_commit(7)
    row.become_probe()
    assert (row.next, row.sent_commit) == (5, 4)
    row.maybe_update(7)
    assert row.can_bump_commit(7)


# ---- the log ----


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.sampled_from((20, 60, NO_LIMIT)))
def test_log_against_a_list(seed: int, bytes_max: int) -> None:
    """Whatever is appended, persisted, applied and compacted, the log is a list."""
    random = Random(seed)
    storage = StubStorage()
    log = RaftLog(storage, bytes_max)
    twin: list[Entry] = []
    handed: list[tuple[Entry, ...]] = []
    applied: list[Entry] = []
    term = 1
    for _ in range(60):
        dice = random.randrange(7)
        if dice == 0:
            term += 1
        elif dice <= 2:
            first = random.randint(log.committed + 1, len(twin) + 1)
            count = random.randrange(1, 4)
            new = tuple(
                Entry(term, first + n, bytes(random.randrange(20)))
                for n in range(count)
            )
            log.append(new)
            twin = twin[: first - 1] + list(new)
        elif dice == 3 and twin:
            log.commit_to(random.randint(log.committed, len(twin)))
        elif dice == 4:
            storage.append(log.unstable.next_entries())
            log.unstable.accept()
            if twin and log.unstable.entries:
                last = log.unstable.in_progress - 1
                log.stable_to(twin[last - 1].term, last)
        elif dice == 5:
            page = log.next_committed(allow_unstable=False)
            if page:
                handed.append(page)
                log.accept_applying(page[-1].index, entries_size(page), False)
        elif handed:
            page = handed.pop(0)
            applied += page
            log.applied_to(page[-1].index, entries_size(page))
            if random.random() < 0.3:
                storage.compact(random.randint(log.first_index(), log.applied))
        check_log(log, twin)
        assert applied == twin[: log.applied]


def check_log(log: RaftLog, twin: list[Entry]) -> None:
    """Everything that can be asked of a log."""
    assert log.last_index == len(twin)
    first = log.first_index()
    for index in range(first, len(twin) + 1):
        assert log.term(index) == twin[index - 1].term
    assert log.term(len(twin) + 1) is None
    if first > 1:
        assert log.slice(first - 1, first) is None
        assert log.term(first - 1) is not None
    if first > 2:
        assert log.term(first - 2) is None
    if first <= len(twin):
        assert list(log.slice(first, len(twin) + 1) or ()) == twin[first - 1 :]
