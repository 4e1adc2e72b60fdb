"""The embedded store beside its raw engine: puts, latency, gets, ranges."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import revstore
from revstore.apply.entries import RequestEncoder
from revstore.embedded.store import EmbeddedStore
from revstore.mvcc.query import RangeQuery
from revstore.proto import rpc_pb2
from revstore.types import Entry
from revstore_bench import host
from revstore_bench.model import BATCH, Case, Row, Sample, Scale
from revstore_bench.raw import open_raw
from revstore_bench.workload import (
    batches,
    make_key,
    make_pairs,
    make_value,
    some_keys,
)
from revstore_wal.encode import MARK_BYTES_MAX, encode_entries

BACKENDS = ("lmdb", "rocksdb", "memory")
FILL_BATCH = 128
LATENCY_BLOCK = 20
"""Puts and bare writes take turns in blocks of this size."""

PUTS_PER_SECOND_MIN = 80_000.0
CPU_PER_PUT_MAX_US = 1e6 / PUTS_PER_SECOND_MIN
"""The same on one core, whatever else the machine and its disk have to do."""
GET_MAX_US = 5.0
ROW_MAX_US = 1.5

DURABLE = "SYNC"
"""A write that returned survives a power cut: the log is synced before."""


class EmbeddedCase(Case):
    """What the cases of one backend share."""

    def __init__(self, group: str, backend: str, scale: Scale, directory: Path) -> None:
        super().__init__(scale, directory)
        self.backend = backend
        self.name = f"{group}/{backend}"
        self._settings: dict[str, object] = {}

    def settings(self) -> Mapping[str, object]:
        return self._settings

    def note(self, store: EmbeddedStore, raw: Mapping[str, object]) -> None:
        """Remember which settings were in force."""
        inner = store.replica.backend
        self._settings = {
            "store": {**inner.stats().engine, "wal": "segment, fdatasync per batch"},
            "raw": dict(raw),
        }


class PutCase(EmbeddedCase):
    """Transactions of 100 puts into an empty store, durable one by one."""

    def __init__(self, order: str, backend: str, scale: Scale, directory: Path) -> None:
        super().__init__(f"put-{order}", backend, scale, directory)
        self._pairs = make_pairs(scale.keys, shuffled=order == "random")

    def sample(self, number: int) -> Sample:
        work = batches(self._pairs)
        path = self.directory / f"{number}"
        found: dict[str, float] = {}
        with revstore.open(path / "store", backend=self.backend) as store:
            gc.collect()
            cpu, begin = host.cpu_seconds(), time.perf_counter()
            for batch in work:
                store.put_many(batch)
            took = time.perf_counter() - begin
            found["rate"] = len(self._pairs) / took
            store.sync()
            took = time.perf_counter() - begin
            found["cpu_us"] = (host.cpu_seconds() - cpu) / len(self._pairs) * 1e6
            found["rate_flushed"] = len(self._pairs) / took
            raw = open_raw(self.backend, path / "raw")
            self.note(store, raw.settings)
        try:
            begin = time.perf_counter()
            for batch in work:
                raw.put_batch(batch)
            found["raw_rate"] = len(self._pairs) / (time.perf_counter() - begin)
        finally:
            raw.close()
        shutil.rmtree(path)
        return found

    def rows(self) -> list[Row]:
        target = PUTS_PER_SECOND_MIN if self.backend != "memory" else None
        return [
            Row(
                name=f"{self.name}: txn of {BATCH}",
                unit="puts/s",
                figure="rate",
                beside="raw_rate",
                beside_name="raw engine, same transactions",
                target_min=target,
                durability=DURABLE,
            ),
            Row(
                name=f"{self.name}: until the backend has all",
                unit="puts/s",
                figure="rate_flushed",
                durability=DURABLE,
            ),
            Row(
                name=f"{self.name}: processor time, all threads",
                unit="us/put",
                figure="cpu_us",
                target_max=CPU_PER_PUT_MAX_US if target else None,
                durability=DURABLE,
            ),
        ]


class LatencyCase(EmbeddedCase):
    """One durable put at a time, beside a bare write and sync of as many bytes."""

    def __init__(self, backend: str, scale: Scale, directory: Path) -> None:
        super().__init__("put-latency", backend, scale, directory)

    def prepare(self) -> None:
        self._store = revstore.open(self.directory / "store", backend=self.backend)
        self._raw = open_raw(self.backend, self.directory / "raw")
        self.note(self._store, self._raw.settings)

    def sample(self, number: int) -> Sample:
        value = make_value()
        record = record_bytes(make_key(0), value)
        rounds = max(1, self.scale.singles // LATENCY_BLOCK)
        count = rounds * LATENCY_BLOCK
        keys = some_keys(count, self.scale.keys)
        puts: list[float] = []
        bare: list[float] = []
        raw: list[float] = []
        path = self.directory / "bare"
        with host.BareFile(path, count * len(record)) as file:
            for start in range(0, count, LATENCY_BLOCK):
                block = keys[start : start + LATENCY_BLOCK]
                for key in block:
                    begin = time.perf_counter_ns()
                    self._store.put(key, value)
                    puts.append((time.perf_counter_ns() - begin) / 1000)
                bare += [file.write(record) for _ in block]
                for key in block:
                    begin = time.perf_counter_ns()
                    self._raw.put_batch([(key, value)])
                    raw.append((time.perf_counter_ns() - begin) / 1000)
        return {
            "p50_us": median(puts),
            "p99_us": sorted(puts)[count * 99 // 100],
            "bare_us": median(bare),
            "raw_us": median(raw),
            "ratio": median(puts) / median(bare),
            "record_bytes": len(record),
        }

    def rows(self) -> list[Row]:
        return [
            Row(
                name=f"{self.name}: p50",
                unit="us",
                figure="p50_us",
                beside="bare_us",
                beside_name="bare pwrite + fdatasync",
                target_max=2.0 if self.backend != "memory" else None,
                target_of="ratio",
                durability=DURABLE,
            ),
            Row(
                name=f"{self.name}: p99",
                unit="us",
                figure="p99_us",
                beside="raw_us",
                beside_name="raw engine, one put, p50",
                durability=DURABLE,
            ),
        ]

    def close(self) -> None:
        self._store.close()
        self._raw.close()


class ReadCase(EmbeddedCase):
    """Point reads and a range at the head of a filled store."""

    def __init__(self, backend: str, scale: Scale, directory: Path) -> None:
        super().__init__("read", backend, scale, directory)

    def prepare(self) -> None:
        self._store = revstore.open(self.directory / "store", backend=self.backend)
        self._raw = open_raw(self.backend, self.directory / "raw")
        for batch in batches(
            make_pairs(self.scale.keys, shuffled=True), size=FILL_BATCH
        ):
            self._store.put_many(batch)
            self._raw.put_batch(batch)
        self._store.sync()
        self.note(self._store, self._raw.settings)
        self._keys = some_keys(self.scale.gets, self.scale.keys)

    def sample(self, number: int) -> Sample:
        store, inner, raw = self._store, self._store.replica.store, self._raw
        keys, rows = self._keys, self.scale.rows
        found: dict[str, float] = {}
        for figure, get in (
            ("get_us", store.get),
            ("mvcc_get_us", inner.get),
            ("raw_get_us", raw.get),
        ):
            begin, cpu = time.perf_counter(), time.thread_time()
            for key in keys:
                get(key)
            found[figure] = (time.perf_counter() - begin) / len(keys) * 1e6
            found[f"{figure}_cpu"] = (time.thread_time() - cpu) / len(keys) * 1e6
        query = RangeQuery(key=b"\0", end=b"\0", limit=rows)
        scans: dict[str, Callable[[], int]] = {
            "range_us": lambda: len(list(store.range(limit=rows))),
            "mvcc_us": lambda: sum(
                len(chunk.kvs) for chunk in inner.range_chunks(query, count=False)
            ),
            "raw_us": lambda: len(raw.scan(rows)),
        }
        for figure, scan in scans.items():
            begin, cpu = time.perf_counter(), time.thread_time()
            count = scan()
            found[figure] = (time.perf_counter() - begin) / rows * 1e6
            found[f"{figure}_cpu"] = (time.thread_time() - cpu) / rows * 1e6
            if count != rows:
                raise AssertionError(f"{self.name}: {count} rows instead of {rows}")
        return found

    def rows(self) -> list[Row]:
        rows = self.scale.rows
        found: list[Row] = []
        for figure, raw, what, unit, limit in (
            ("get_us", "raw_get_us", "head get", "us", GET_MAX_US),
            ("range_us", "raw_us", f"range of {rows}", "us/row", ROW_MAX_US),
        ):
            for suffix, clock in (("", ""), ("_cpu", ", processor time")):
                found.append(
                    Row(
                        name=f"{self.name}: {what}, decoded{clock}",
                        unit=unit,
                        figure=figure + suffix,
                        beside=raw + suffix,
                        beside_name="raw engine",
                        target_max=limit if self.backend != "memory" else None,
                    )
                )
        found.append(
            Row(name=f"{self.name}: head get, row", unit="us", figure="mvcc_get_us_cpu")
        )
        found.append(
            Row(
                name=f"{self.name}: range of {rows}, rows",
                unit="us/row",
                figure="mvcc_us_cpu",
            )
        )
        return found

    def close(self) -> None:
        self._store.close()
        self._raw.close()


def record_bytes(key: bytes, value: bytes) -> bytes:
    """What the log writes for one put: its frame, and the mark of the batch."""
    request = rpc_pb2.PutRequest(key=key, value=value).SerializeToString()
    data = RequestEncoder(1).encode(4, request)
    encoded = encode_entries([Entry(2, 1 << 20, data)], 0, 1 << 20)
    return bytes(MARK_BYTES_MAX) + b"".join(encoded.pieces)


def cases(scale: Scale, directory: Path) -> list[Case]:
    """All cases of this file."""
    found: list[Case] = []
    for backend in BACKENDS:
        for order in ("sequential", "random"):
            path = directory / f"put-{order}-{backend}"
            found.append(PutCase(order, backend, scale, path))
        found.append(LatencyCase(backend, scale, directory / f"latency-{backend}"))
        found.append(ReadCase(backend, scale, directory / f"read-{backend}"))
    return found
