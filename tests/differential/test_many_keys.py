"""Thousands of keys beside a real etcd: ranges, deletes and history beyond one chunk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from revstore.proto import rpc_pb2 as rpc
from tests.differential.harness import Run, chosen_seed
from tests.differential.ops import (
    TXN_OPS_MAX,
    CompareHistory,
    Op,
    RangeStream,
    Restart,
    Unary,
    Watch,
)
from tests.support.etcd import ETCD, NO_ETCD

KEYS = 3_000
ASKED = 150


def key(number: int) -> bytes:
    """One of the keys, in the order of the numbers."""
    return b"n%06d" % number


def load(random: Random) -> Iterator[Op]:
    """All keys in transactions, in any order, with values that differ."""
    numbers = random.sample(range(KEYS), KEYS)
    for start in range(0, KEYS, TXN_OPS_MAX):
        request = rpc.TxnRequest()
        for number in numbers[start : start + TXN_OPS_MAX]:
            value = b"%d" % (number * 7919 % KEYS)
            put = rpc.PutRequest(key=key(number), value=value * random.randint(1, 9))
            request.success.append(rpc.RequestOp(request_put=put))
        yield Unary("Txn", request)


def asked(random: Random, head: int) -> rpc.RangeRequest:
    """A wide range."""
    request = rpc.RangeRequest(
        key=key(random.randrange(KEYS // 3)),
        range_end=random.choice([b"\0", key(random.randrange(KEYS // 2, KEYS)), b"o"]),
        keys_only=random.random() < 0.5,
        count_only=random.random() < 0.1,
        serializable=random.random() < 0.3,
    )
    if random.random() < 0.5:
        request.limit = random.choice([1, 999, 1000, 1001, 2000, KEYS])
    if random.random() < 0.5:
        request.revision = random.randint(2, head)
    if random.random() < 0.3:
        request.sort_target = rpc.RangeRequest.KEY
        request.sort_order = random.choice(
            [rpc.RangeRequest.ASCEND, rpc.RangeRequest.DESCEND]
        )
    elif random.random() < 0.3:
        request.sort_target = random.choice(
            [rpc.RangeRequest.MOD, rpc.RangeRequest.VALUE]
        )
    if random.random() < 0.2:
        request.min_mod_revision = random.randint(1, head)
    return request


def ranges(random: Random, head: int) -> Iterator[Op]:
    """Wide ranges, plain and streamed."""
    for number in range(ASKED):
        request = asked(random, head)
        yield RangeStream(request) if number % 5 == 0 else Unary("Range", request)


def session(random: Random) -> Iterator[Op]:
    """Load, read, delete half of it, compact, read again, and once more later."""
    loaded = 1 + KEYS // TXN_OPS_MAX
    yield from load(random)
    yield from ranges(random, loaded)
    span = rpc.DeleteRangeRequest(key=key(1000), range_end=key(2500), prev_kv=True)
    yield Unary("DeleteRange", span)
    history = rpc.WatchCreateRequest(
        key=b"n", range_end=b"o", start_revision=2, prev_kv=True
    )
    yield Watch(0, rpc.WatchRequest(create_request=history))
    progress = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())
    yield Watch(0, progress)
    yield from ranges(random, loaded + 1)
    yield CompareHistory()
    compact = rpc.CompactionRequest(revision=loaded - 20, physical=True)
    yield Unary("Compact", compact)
    yield from ranges(random, loaded + 1)
    yield Restart(kill=True)
    yield from ranges(random, loaded + 1)
    rest = rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0")
    yield Unary("DeleteRange", rest)
    yield from ranges(random, loaded + 2)


@pytest.mark.etcd
@pytest.mark.slow
@pytest.mark.skipif(ETCD is None, reason=NO_ETCD)
@pytest.mark.parametrize("backend", ["memory", "lmdb", "rocksdb"])
def test_thousands_of_keys_are_read_as_in_etcd(tmp_path: Path, backend: str) -> None:
    """Ranges, events and hashes over thousands of keys are etcd's."""
    seed = chosen_seed(7)
    run = Run(backend, tmp_path)
    run.replay(list(session(Random(seed))))
    assert run.reached == KEYS // TXN_OPS_MAX + 3, f"seed {seed}"
