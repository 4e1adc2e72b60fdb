"""A store with its model beside it: every answer is compared, crashes are replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.mvcc.model import Model

from revstore.apply import kv, txn
from revstore.errors import ApiError
from revstore.hookspecs import BackendPlugin
from revstore.interfaces.backend import Backend
from revstore.mvcc.flush import FlushJob
from revstore.mvcc.hashing import HashJob
from revstore.mvcc.query import RangeQuery, RangeResult
from revstore.mvcc.store import Store, StoreOptions
from revstore.mvcc.tables import (
    CURRENT,
    INDEX,
    KEYSPACES,
    LEASE,
    LEASE_KEY,
    LOG,
    decode_index_key,
    lease_key_prefix,
    split_log_key,
)
from revstore.proto import rpc_pb2
from revstore.proto.kv_pb2 import KeyValue

Outcome = tuple[int, bytes] | ApiError
Entry = tuple[str, Any]

OPTIONS = StoreOptions(compaction_batch_limit=7)


def open_backend(name: str, directory: Path) -> Backend:
    """A shipped backend by name."""
    module = __import__(f"revstore_{name}.plugin", fromlist=["plugin"])
    plugins: list[BackendPlugin] = []
    module.revstore_register_backend(plugins.append)
    return plugins[0].factory(directory, KEYSPACES, plugins[0].options())


class Harness:
    """Feeds entries to store and model alike."""

    def __init__(
        self,
        make: Callable[[], Backend],
        random: Random,
        options: StoreOptions = OPTIONS,
    ) -> None:
        self.make = make
        self.random = random
        self.options = options
        self.backend = make()
        self.store = Store(self.backend, options)
        self.model = Model()
        self.entries: list[Entry] = []
        self.outcomes: list[Outcome] = []
        self.job: FlushJob | None = None
        self.drained: list[tuple[int, int, bool, bytes]] = []
        self.readers: list[tuple[Iterator[RangeResult], list[bytes]]] = []
        """Ranges in progress, each with the rows that are still to come."""
        self.jobs: list[tuple[HashJob, int]] = []
        """Hashes in progress, each with what it must come to."""

    def close(self) -> None:
        self.readers.clear()
        self.jobs.clear()
        self.store.close()
        self.backend.close()

    # Entries

    def apply(self, kind: str, request: Any) -> Outcome:
        """Apply an entry to both and compare what they answer."""
        entry = (kind, request)
        self.entries.append(entry)
        expected = self._expected(entry)
        got = self._apply(len(self.entries), entry)
        self.outcomes.append(got)
        if isinstance(expected, ApiError) or isinstance(got, ApiError):
            assert got == expected, (entry, got, expected)
        else:
            response = type(expected[1]).FromString(got[1])
            expected[1].ClearField("header")
            assert (got[0], response) == expected, (entry, got[0], response, expected)
        assert self.store.revision == self.model.revision
        self._drain()
        return got

    def _apply(self, index: int, entry: Entry) -> Outcome:
        kind, request = entry
        store = self.store
        functions: dict[str, Callable[[Store, Any], Any]] = {
            "put": kv.apply_put,
            "delete": kv.apply_delete_range,
            "txn": txn.apply_txn,
            "compact": kv.apply_compaction,
        }
        try:
            if kind == "grant":
                store.system_put(LEASE, lease_key_prefix(request), b"granted")
                return store.revision, b""
            result = functions[kind](store, request)
            return result.revision, result.body
        except ApiError as exc:
            return exc
        finally:
            store.set_applied(index, 1)

    def _expected(self, entry: Entry) -> tuple[int, Any] | ApiError:
        kind, request = entry
        model = self.model
        try:
            if kind == "grant":
                model.leases.add(request)
                return model.revision, rpc_pb2.LeaseGrantResponse()
            if kind == "compact":
                model.compact(request.revision)
                return model.revision, rpc_pb2.CompactionResponse()
            if kind == "put":
                model.check_put(request)
            function = {"put": model.put, "delete": model.delete, "txn": model.txn}
            answer: Any = function[kind](request)  # type: ignore[operator]  # by kind
            return model.commit(), answer
        except ApiError as exc:
            return exc

    def _drain(self) -> None:
        self.drained += [
            (event.revision, event.sub, event.deleted, event.kv)
            for event in self.store.drain_events()
        ]

    # The life of a store

    def begin_flush(self) -> None:
        if self.job is None:
            self.job = self.store.begin_flush(sync=self.random.random() < 0.3)

    def end_flush(self) -> None:
        if self.job is not None:
            self.job.run()
            self.store.end_flush(self.job)
            self.job = None

    def flush(self) -> None:
        self.end_flush()
        self.store.flush()

    def crash(self, *, reopen: bool = False) -> None:
        """Lose what is not in the backend, then apply it again from the log."""
        if self.job is not None and self.random.random() < 0.5:
            self.job.run()
        self.job = None
        self.readers.clear()
        self.jobs.clear()
        self.store.close()
        if reopen and self.backend.capabilities.persistent:
            self.backend.close()
            self.backend = self.make()
        self.store = Store(self.backend, self.options)
        assert self.store.revision <= self.model.revision
        for index in range(self.store.applied_index, len(self.entries)):
            again = self._apply(index + 1, self.entries[index])
            assert again == self.outcomes[index], (index, self.entries[index])
        assert self.store.revision == self.model.revision
        assert self.store.compact_revision == self.model.compact_revision
        self.store.drain_events()

    def compact_physically(self) -> None:
        """Do all pending compaction."""
        self.finish_readers()
        self.end_flush()
        for _ in range(10_000):
            if not self.store.compaction_pending():
                break
            if not self.store.compaction_step():
                self.store.flush()
        assert not self.store.compaction_pending()
        self.store.flush()

    # Checks

    def read(self, request: rpc_pb2.RangeRequest) -> None:
        """Compare a range."""
        expected: rpc_pb2.RangeResponse | ApiError
        try:
            expected = self.model.range(request)
        except ApiError as exc:
            expected = exc
        if isinstance(expected, ApiError):
            with pytest.raises(ApiError) as caught:
                kv.apply_range(self.store, request)
            assert caught.value == expected
            return
        head = expected.header.revision
        expected.ClearField("header")
        result = kv.apply_range(self.store, request)
        assert rpc_pb2.RangeResponse.FromString(result.body) == expected, request
        assert result.revision == head

    def start_reader(self) -> None:
        """Begin a range that goes on while other things happen."""
        first = max(self.model.compact_revision, 1)
        revision = self.random.choice(
            [0, self.random.randint(first, self.model.revision)]
        )
        query = RangeQuery(b"\x00", b"\x00", revision=revision)
        state = self.model.state(revision or self.model.revision)
        rows = [kv.SerializeToString() for kv in state.values()]
        self.readers.append((self.store.range_chunks(query, rows=2), rows))
        self.step_reader(-1)

    def step_reader(self, number: int | None = None) -> None:
        """Take a chunk from one of the ranges in progress."""
        if self.readers:
            if number is None:
                number = self.random.randrange(len(self.readers))
            chunks, rows = reader = self.readers[number]
            chunk = next(chunks)
            assert chunk.kvs == rows[: len(chunk.kvs)]
            del rows[: len(chunk.kvs)]
            if not chunk.more:
                assert not rows
                self.readers.remove(reader)

    def start_job(self) -> None:
        """Begin a hash that goes on while other things happen."""
        first = max(self.model.compact_revision, 1)
        revision = self.random.randint(first, self.model.revision)
        job = self.store.hash_kv_job(revision)
        if job.step(3):
            return
        expected = self.model.hash_kv(revision, self.model.compact_revision)
        self.jobs.append((job, expected))

    def step_job(self) -> None:
        """Take one of the hashes in progress a step further."""
        if self.jobs:
            job, expected = entry = self.random.choice(self.jobs)
            if job.step(3):
                assert job.result.hash == expected
                self.jobs.remove(entry)

    def finish_readers(self) -> None:
        """End everything that is in progress."""
        while self.readers:
            self.step_reader()
        while self.jobs:
            self.step_job()

    def check_chunks(self, revision: int, rows: int) -> None:
        """A range in chunks gives what one range gives."""
        query = RangeQuery(b"\x00", b"\x00", revision=revision)
        got: list[bytes] = []
        for chunk in self.store.range_chunks(query, rows, bytes_max=200):
            got += chunk.kvs
        assert got == self.store.range(query).kvs
        assert chunk.count == len(got)
        assert not chunk.more

    def check_history(self) -> None:
        """The log, whole revisions at a time, is the model's."""
        first = max(self.model.compact_revision, 1)
        rows = [(*row[:3], row[3].SerializeToString()) for row in self.model.events(1)]
        assert self.drained == rows, "drained events"
        wanted = [row for row in rows if row[0] >= first]
        got = []
        following = first
        limit, size = self.random.choice([(1, 1), (3, 10**6), (100, 50)])
        while following <= self.store.revision:
            events, resume = self.store.events(following, limit, size)
            assert resume > following
            got += [(e.revision, e.sub, e.deleted, e.kv) for e in events]
            following = resume
        assert got == wanted

    def check_hashes(self) -> None:
        """HashKV at every readable revision."""
        for revision in range(self.model.compact_revision, self.model.revision + 1):
            if revision <= 0:
                continue
            result = self.store.hash_kv(revision)
            compact = self.model.compact_revision
            cached = result.compact_revision != compact
            if cached:
                # The hash of a compaction: with the compaction before it.
                compact = result.compact_revision
                assert (compact, revision) in self.model.compactions
            expected = self.model.hash_kv(revision, compact, cached)
            assert result.hash == expected, (revision, compact)
            assert result.hash_revision == revision

    def check_tables(self) -> None:
        """The backend holds exactly what rows and index of the model call for.

        Only right after a flush and with no compaction pending.
        """
        rows = self.model.rows_after_compaction(self.model.compact_revision)
        log = {row[:3]: row[3].SerializeToString() for row in rows}
        index = {(row[3].key, row[0]) for row in rows}
        live = self.model.now()
        with self.backend.snapshot() as snapshot:

            def table(name: str) -> dict[bytes, bytes]:
                return dict(p for part in snapshot.scan(name, b"", None) for p in part)

            assert {split_log_key(k): v for k, v in table(LOG).items()} == log
            assert {decode_index_key(key) for key in table(INDEX)} == index
            current = {key: kv.SerializeToString() for key, kv in live.items()}
            assert table(CURRENT) == current
            leases = {
                lease_key_prefix(kv.lease) + key for key, kv in live.items() if kv.lease
            }
            assert set(table(LEASE_KEY)) == leases

    def check_leases(self) -> None:
        """Every lease knows its keys, sorted."""
        live = self.model.now()
        for lease in self.model.leases:
            assert self.store.lease_exists(lease)
            keys = [key for key, kv in live.items() if kv.lease == lease]
            assert self.store.lease_keys(lease) == keys

    def check_gets(self, keys: list[bytes]) -> None:
        """Single rows at readable revisions."""
        head = self.model.revision
        first = max(self.model.compact_revision, 1)
        for revision in {first, head, self.random.randint(first, head)}:
            state = self.model.state(revision)
            for key in keys:
                row = self.store.get(key, revision)
                found = None if row is None else KeyValue.FromString(row)
                assert found == state.get(key), (key, revision)
