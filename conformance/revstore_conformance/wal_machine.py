"""A state machine for Hypothesis: calls, reopens and crashes against the model."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from revstore.types import ConfState, Entry, HardState, SnapshotMeta
from revstore_conformance.wal import NotRun, WalHarness
from revstore_conformance.wal_model import ModelledWal


class WalMachine(RuleBasedStateMachine):
    """Subclass it with ``make_harness`` and use its ``TestCase``."""

    def __init__(self) -> None:
        super().__init__()
        self.harness = self.make_harness()
        self.log = ModelledWal()

    def make_harness(self) -> WalHarness:
        """A harness with an empty place."""
        raise AssertionError("a subclass says how to make the harness")

    @initialize()
    def open_new(self) -> None:
        """Make the log."""
        self.log.take_over(self.harness.open())

    @rule(
        count=st.integers(0, 5),
        back=st.integers(0, 6),
        size=st.sampled_from((0, 1, 30, 500, 2500)),
        fill=st.sampled_from((b"\0", b"\x08", b"x")),
        terms=st.integers(0, 2),
        vote=st.integers(0, (1 << 64) - 1),
    )
    def append(
        self, count: int, back: int, size: int, fill: bytes, terms: int, vote: int
    ) -> None:
        """Append entries, perhaps in place of others, perhaps with a new term."""
        state = self.log.state
        before = state.hard_state
        after = before
        if terms:
            after = HardState(before.term + terms, vote, before.commit)
        lowest = max(self.log.must_wal().first_index(), state.snapshot.index + 1)
        start = max(state.last + 1 - back, min(lowest, state.last + 1))
        entries = [Entry(after.term, start + n, fill * size) for n in range(count)]
        self.log.append(after if terms else None, entries)

    @rule(by=st.integers(1, 300))
    def move_commit(self, by: int) -> None:
        """Append a higher commit index only."""
        before = self.log.state.hard_state
        self.log.append(HardState(before.term, before.vote, before.commit + by), ())

    @rule()
    def sync(self) -> None:
        """Make all durable."""
        self.log.sync()

    @rule(back=st.integers(0, 8), beyond=st.sampled_from((0, 0, 0, 1, 7)))
    def save_snapshot(self, back: int, beyond: int) -> None:
        """Save a marker within the log or beyond it."""
        state = self.log.state
        conf = ConfState(voters=(1, 2), voters_outgoing=(3,), learners_next=(4,))
        if beyond:
            meta = SnapshotMeta(state.last + beyond, state.hard_state.term, conf)
        else:
            index = max(state.last - back, state.first)
            if index > state.last:
                return
            meta = SnapshotMeta(index, state.entry(index).term, conf)
        self.log.save_snapshot(meta)

    @rule(back=st.integers(0, 20))
    def purge(self, back: int) -> None:
        """Free what the marker allows, or less."""
        self.log.purge_to(max(self.log.state.snapshot.index - back, 0))

    @rule(lo=st.integers(0, 30), length=st.integers(0, 30), most=st.integers(0, 3000))
    def read(self, lo: int, length: int, most: int) -> None:
        """Read a piece anywhere."""
        wal = self.log.must_wal()
        state = self.log.state
        lo = min(wal.first_index() + lo, state.last + 1)
        hi = min(lo + length, state.last + 1)
        wanted = list(state.entries[lo - state.first : hi - state.first])
        got = wal.read(lo, hi, most)
        assert got == wanted[: len(got)]
        assert bool(got) == bool(wanted)
        if not most:
            assert len(got) == len(wanted)

    @rule()
    def reopen(self) -> None:
        """Close and open."""
        self.log.close()
        self.log.take_over(self.harness.open())

    @rule(seed=st.integers(0, 10_000), in_sync=st.booleans())
    def crash(self, seed: int, in_sync: bool) -> None:
        """Cut the power, at rest or in a sync, and open."""
        random = Random(seed)
        try:
            if in_sync:
                self.harness.cut_power_in_sync(self.log.must_wal(), random)
            else:
                self.harness.cut_power(random)
        except NotRun:
            return
        self.log.crash()
        self.log.take_over(self.harness.open())

    @invariant()
    def says_what_the_model_says(self) -> None:
        """The open log and the model agree."""
        if self.log.wal is not None:
            self.log.check()

    def teardown(self) -> None:
        """Close the log."""
        if self.log.wal is not None:
            self.log.close()
