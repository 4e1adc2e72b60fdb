"""Watch streams beside a real etcd, where a random run seldom comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from revstore.proto import rpc_pb2 as rpc
from tests.differential.sides import Side
from tests.differential.tapes import WatchTape, until
from tests.support.etcd import ETCD, NO_ETCD, start_etcd
from tests.support.server import start_server

REQUEST_BYTES = 65_536
MESSAGE_BYTES = REQUEST_BYTES + 512 * 1024
"""Where etcd begins to split."""

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.skipif(ETCD is None, reason=NO_ETCD),
]

Scene = Callable[[Side], Coroutine[Any, Any, Any]]


def both(folder: Path, scene: Scene) -> tuple[Any, Any]:
    """What etcd and revstore show in the same scene."""

    async def play() -> tuple[Any, Any]:
        sides = [Side(etcd), Side(revstore)]
        try:
            shown = [await scene(side) for side in sides]
        finally:
            for side in sides:
                await side.close()
        return shown[0], shown[1]

    flags: dict[str, Any] = {"max_request_bytes": REQUEST_BYTES}
    with (
        start_etcd(folder / "etcd", **flags) as etcd,
        start_server("lmdb", folder / "revstore", **flags) as revstore,
    ):
        return asyncio.run(play())


async def create(tape: WatchTape, **fields: Any) -> rpc.WatchResponse:
    """Create a watcher; the server's first answer."""
    count = len(tape.records) + 1
    request = rpc.WatchCreateRequest(**fields)
    await tape.send(rpc.WatchRequest(create_request=request))
    await until(lambda: len(tape.records) >= count, f"created {fields}", tape)
    return tape.records[-1].control[0]


async def put(side: Side, key: bytes, value: bytes = b"") -> int:
    """Put a key; the revision."""
    answer: Any = await side.call("Put", rpc.PutRequest(key=key, value=value))
    revision: int = answer.header.revision
    return revision


def test_large_responses_are_split_when_asked(tmp_path: Path) -> None:
    """History beyond a message's limit comes in fragments, or whole, as in etcd."""

    async def scene(side: Side) -> Any:
        value = b"v" * 60_000
        for number in range(24):
            head = await put(side, b"k%d" % number, value)
        shown = []
        for fragment in (False, True):
            tape = await side.tape(int(fragment))
            span = {"key": b"\0", "range_end": b"\0", "start_revision": 2}
            await create(tape, **span, fragment=fragment)
            record = tape.records[0]
            await until(
                lambda record=record: (  # type: ignore[misc]  # bound now
                    bool(record.events) and record.events[-1].kv.mod_revision == head
                ),
                "all history",
                tape,
            )
            shown.append(record.events)
            assert not record.problems
            if fragment:
                assert tape.largest < MESSAGE_BYTES + len(value), side.name
                assert tape.fragments, side.name
            else:
                assert not tape.fragments, side.name
        return shown

    etcd, revstore = both(tmp_path, scene)
    assert etcd == revstore
    assert len(etcd[0]) == 24


def test_chosen_ids_pass_over_taken_ones(tmp_path: Path) -> None:
    """The server's own ids count up and leave out those that a client took."""

    async def scene(side: Side) -> list[int]:
        tape = await side.tape(0)
        wanted = (1, 0, 0, 3, 0, 2, 0, 0)
        created = [await create(tape, key=b"a", watch_id=one) for one in wanted]
        return [answer.watch_id for answer in created]

    etcd, revstore = both(tmp_path, scene)
    assert etcd == revstore
    assert etcd[:4] == [1, 0, 2, 3]


def test_the_id_of_an_ended_watcher_is_free(tmp_path: Path) -> None:
    """After a compaction ended a watcher its id may be used; etcd refuses it."""

    async def scene(side: Side) -> bool:
        for _ in range(3):
            head = await put(side, b"a")
        compact = rpc.CompactionRequest(revision=head, physical=True)
        await side.call("Compact", compact)
        tape = await side.tape(0)
        await create(tape, key=b"a", watch_id=7, start_revision=2)
        await until(lambda: tape.records[0].ended, "the end", tape)
        again = await create(tape, key=b"a", watch_id=7)
        return again.canceled

    assert both(tmp_path, scene) == (True, False)


def test_progress_waits_for_a_future_watcher(tmp_path: Path) -> None:
    """Progress is reported once every watcher has begun; 3.4.23 did not wait."""

    async def scene(side: Side) -> tuple[bool, int]:
        head = await put(side, b"a")
        tape = await side.tape(0)
        await create(tape, key=b"b", start_revision=head + 3)
        progress = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())
        await tape.send(progress)
        await create(tape, key=b"c", watch_id=7)
        early = bool(tape.progress)
        for _ in range(3):
            head = await put(side, b"a")
        await until(lambda: bool(tape.progress), "progress", tape)
        return early, head - tape.progress[0].header.revision

    etcd, revstore = both(tmp_path, scene)
    assert etcd == (True, 3)
    assert revstore[0] is False
    assert revstore[1] <= 1


def test_an_expired_lease_takes_its_keys(tmp_path: Path) -> None:
    """Expiry deletes the keys of a lease, sorted, in one revision, as etcd does."""

    async def scene(side: Side) -> list[Any]:
        grant = rpc.LeaseGrantRequest(ID=5, TTL=1)
        granted: Any = await side.call("LeaseGrant", grant)
        for key in (b"c", b"a", b"b"):
            await side.call("Put", rpc.PutRequest(key=key, lease=5))
        await put(side, b"d")
        tape = await side.tape(0)
        span = {"key": b"a", "range_end": b"z", "start_revision": 2}
        await create(tape, **span, prev_kv=True)
        record = tape.records[0]
        await until(lambda: len(record.events) == 7, "the deletions", tape)
        live: Any = await side.call(
            "LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=5, keys=True)
        )
        hashed: Any = await side.call("HashKV", rpc.HashKVRequest())
        return [granted.TTL, record.events, live.TTL, live.grantedTTL, hashed.hash]

    etcd, revstore = both(tmp_path, scene)
    assert etcd == revstore
    assert [event.kv.key for event in etcd[1][4:]] == [b"a", b"b", b"c"]
