"""Any backend against a dictionary: random batches, views, scans and reopens.

Hypothesis shrinks a failure to the shortest list of steps and prints how to repeat it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from revstore.interfaces.backend import Pair, Snapshot, WriteBatch
from revstore_conformance.backend_harness import BackendHarness, read_all

NAMES = ("alpha", "beta")
STEMS = (b"", b"s" * 300, b"s" * 509, b"s" * 511, b"s" * 1012, b"\xff" * 600)
VIEWS_MAX = 4

Model = dict[str, dict[bytes, bytes]]

keys = st.builds(
    bytes.__add__,
    st.sampled_from(STEMS),
    st.lists(st.sampled_from((0, 1, 97, 115, 255)), max_size=3).map(bytes),
)
values = st.builds(
    bytes.__mul__, st.binary(max_size=3), st.sampled_from((1, 1, 1, 50, 3000))
)
ranges = st.tuples(keys, st.one_of(st.none(), keys))
names = st.sampled_from(NAMES)


def inside(pairs: dict[bytes, bytes], lo: bytes, hi: bytes | None) -> list[Pair]:
    """What a scan of a keyspace must give."""
    return [
        (key, pairs[key])
        for key in sorted(pairs)
        if key >= lo and (hi is None or key < hi)
    ]


class View:
    """A snapshot, what it must show, and scans of it that are under way."""

    def __init__(self, snapshot: Snapshot, model: Model) -> None:
        self.snapshot = snapshot
        self.model = {name: dict(pairs) for name, pairs in model.items()}
        self.scans: list[tuple[Iterator[list[Pair]], list[Pair]]] = []


class BackendMachine(RuleBasedStateMachine):
    """The steps; each compares with the model what it reads."""

    def __init__(self, harness: BackendHarness) -> None:
        super().__init__()
        self.harness = harness
        self.directory = harness.directory()
        self.backend = harness.open(self.directory, NAMES)
        self.model: Model = {name: {} for name in NAMES}
        self.views: list[View] = []

    @rule(
        name=names,
        delete_ranges=st.lists(ranges, max_size=2),
        deletes=st.lists(keys, max_size=4),
        puts=st.lists(st.tuples(keys, values), max_size=12),
        ascending=st.booleans(),
        ordered=st.booleans(),
    )
    def write(
        self,
        name: str,
        delete_ranges: list[tuple[bytes, bytes | None]],
        deletes: list[bytes],
        puts: list[Pair],
        ascending: bool,
        ordered: bool,
    ) -> None:
        """Write a batch to one keyspace and a trace of it to the other."""
        batch = WriteBatch()
        changes = batch.keyspace(name)
        changes.delete_ranges = delete_ranges
        changes.deletes = deletes
        changes.puts = sorted(puts) if ordered else puts
        changes.ascending = ascending
        other = NAMES[1 - NAMES.index(name)]
        batch.put(other, b"trace", b"%d" % len(puts))
        self.backend.write(batch, self.harness.weakest)
        pairs = self.model[name]
        for lo, hi in delete_ranges:
            for key, _ in inside(pairs, lo, hi):
                del pairs[key]
        for key in deletes:
            pairs.pop(key, None)
        pairs.update(changes.puts)
        self.model[other][b"trace"] = b"%d" % len(puts)

    @rule(name=names, count=st.integers(100, 400), value=values)
    def write_many(self, name: str, count: int, value: bytes) -> None:
        """Write enough rows to split pages and chunks."""
        pairs = [(b"many%04d" % (number * 7 % 1000), value) for number in range(count)]
        batch = WriteBatch()
        batch.keyspace(name).puts = pairs
        self.backend.write(batch, self.harness.weakest)
        self.model[name].update(pairs)

    @rule()
    def take_view(self) -> None:
        """Take a snapshot and keep it open."""
        if len(self.views) == VIEWS_MAX:
            self.views.pop(0).snapshot.close()
        self.views.append(View(self.backend.snapshot(), self.model))

    @rule(data=st.data(), name=names, wanted=st.lists(keys, max_size=5))
    def read_view(self, data: st.DataObject, name: str, wanted: list[bytes]) -> None:
        """Point reads from any open snapshot."""
        if self.views:
            view = data.draw(st.sampled_from(self.views))
            expected = [view.model[name].get(key) for key in wanted]
            assert view.snapshot.get_many(name, wanted) == expected
            assert [view.snapshot.get(name, key) for key in wanted] == expected

    @rule(
        data=st.data(),
        name=names,
        bounds=ranges,
        reverse=st.booleans(),
        limit=st.integers(0, 5),
        chunk=st.sampled_from((1, 3, 1000)),
    )
    def start_scan(
        self,
        data: st.DataObject,
        name: str,
        bounds: tuple[bytes, bytes | None],
        reverse: bool,
        limit: int,
        chunk: int,
    ) -> None:
        """Start a scan of any open snapshot, to be continued later."""
        if not self.views:
            return
        view = data.draw(st.sampled_from(self.views))
        expected = inside(view.model[name], *bounds)
        assert view.snapshot.count(name, *bounds) == len(expected)
        expected = (expected[::-1] if reverse else expected)[: limit or None]
        # The bounds given to the engine are temporaries, so that it cannot rely on
        # the caller to keep them.
        scan = view.snapshot.scan(
            name,
            bytes(bytearray(bounds[0])),
            None if bounds[1] is None else bytes(bytearray(bounds[1])),
            reverse=reverse,
            limit=limit,
            chunk=chunk,
        )
        view.scans.append((scan, expected))

    @rule(data=st.data(), steps=st.integers(1, 4))
    def continue_scan(self, data: st.DataObject, steps: int) -> None:
        """Take some lists from any scan under way."""
        pending = [view for view in self.views if view.scans]
        if not pending:
            return
        scan, expected = data.draw(st.sampled_from(pending)).scans[-1]
        for _ in range(steps):
            rows = next(scan, [])
            assert rows == expected[: len(rows)]
            assert rows or not expected
            del expected[: len(rows)]

    @rule()
    def churn(self) -> None:
        """Make garbage where freed bounds would lie, and collect it."""
        garbage = [bytes((number % 256,)) * 33 for number in range(500)]
        del garbage
        gc.collect()

    @rule()
    def sync(self) -> None:
        """Make everything durable."""
        self.backend.sync()

    @rule()
    def reopen(self) -> None:
        """Close with snapshots and scans open, and open again."""
        if self.harness.capabilities.persistent:
            self.backend.close()
            self.views.clear()
            self.backend = self.harness.open(self.directory, NAMES)

    @invariant()
    def newest_is_right(self) -> None:
        """A new snapshot shows exactly the model."""
        with self.backend.snapshot() as snapshot:
            for name in NAMES:
                assert read_all(snapshot, name) == sorted(self.model[name].items())

    def teardown(self) -> None:
        """Finish every scan, check the structure, close."""
        for view in self.views:
            for scan, expected in view.scans:
                assert [pair for rows in scan for pair in rows] == expected
            view.snapshot.close()
        if self.harness.capabilities.verify:
            assert self.backend.verify() == []
        self.backend.close()


def check_against_model(harness: BackendHarness) -> None:
    """B-02 to B-05, B-12: any sequence of steps agrees with sorted dictionaries."""

    class Machine(BackendMachine):
        def __init__(self) -> None:
            super().__init__(harness)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


CHECKS = (check_against_model,)
