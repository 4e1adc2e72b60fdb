"""Two servers in lock step: every operation on both, the answers compared.

Reads between two writes overlap; everything else goes one by one. Watches are compared
at barriers: revstore answers a progress request when its watchers have everything, and
etcd then has to show the very same (its own progress answer may come too early, so it
only counts as an answer).
"""

from __future__ import annotations

import asyncio
import time
from itertools import zip_longest
from typing import Any

from revstore.api import errors
from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as rpc
from tests.differential.compare import difference, plain
from tests.differential.differences import Differences
from tests.differential.ops import (
    READS,
    ChosenLease,
    CloseWatches,
    CompareHistory,
    KeepAlive,
    NegativeWatch,
    Op,
    RangeStream,
    Restart,
    Unary,
    Watch,
    line,
)
from tests.differential.sides import Side
from tests.differential.tapes import Record, WatchTape, until

SETTLED_S = 3.0
PROGRESS = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())


class MismatchError(AssertionError):
    """The two servers differ; ``op`` is the operation that showed it."""

    def __init__(self, op: Op, what: str) -> None:
        super().__init__(f"{op}\n{what}")
        self.op = op


class Runner:
    """Runs operations on both sides and remembers what it needs to compare."""

    def __init__(self, etcd: Side, revstore: Side, differences: Differences) -> None:
        self.etcd = etcd
        self.revstore = revstore
        self.differences = differences
        self.revision = 1
        self.compacted = -1
        self.done = 0
        self._reads: list[tuple[Op, asyncio.Task[None]]] = []
        self._starts: dict[int, list[tuple[int, int]]] = {}
        self._unsettled = False
        self._lagging = False
        self._hashes: dict[int, Any] = {}
        """etcd's HashKV at each compacted revision, from just before; None where no
        key was alive."""

    @property
    def _sides(self) -> tuple[Side, Side]:
        return self.etcd, self.revstore

    async def close(self) -> None:
        """Forget what still runs, and close both connections."""
        for _op, task in self._reads:
            task.cancel()
        tasks = [task for _op, task in self._reads]
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(side.close() for side in self._sides))

    async def run(self, op: Op) -> None:
        """Run one operation.

        Raises:
            MismatchError: the answers differ; that of a read may come a little later.
        """
        self.done += 1
        if isinstance(op, Unary) and op.name in READS:
            self._reads.append((op, asyncio.create_task(self._unary(op))))
            if len(self._reads) >= 16:
                await self.settle_reads()
            return
        await self.settle_reads()
        match op:
            case Unary():
                await self._change(op)
            case RangeStream():
                await self._range_stream(op)
            case KeepAlive():
                await self._keep_alive(op)
            case ChosenLease():
                await self._chosen_lease(op)
            case Watch():
                await self._watch(op)
            case NegativeWatch():
                await self._negative_watch(op)
            case CloseWatches():
                await self._close_watches(op)
            case Restart():
                await self._restart(op)
            case CompareHistory():
                await self._compare_history(op)

    async def settle_reads(self) -> None:
        """Wait for the reads that are under way. Raises: as ``run``."""
        reads, self._reads = self._reads, []
        tasks = [task for _op, task in reads]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if result is not None:
                raise result

    async def finish(self) -> None:
        """Compare what is left to compare. Raises: as ``run``."""
        await self.settle_reads()
        await self.barrier(CompareHistory())
        await self._compare_history(CompareHistory())

    async def _ask(self, name: str, request: Any) -> tuple[Any, Any]:
        answers = await asyncio.gather(
            *(side.call(name, request) for side in self._sides)
        )
        return plain(answers[0]), plain(answers[1])

    def _equal(self, op: Op, request: Any, expected: Any, got: Any) -> None:
        found = difference(request, expected, got)
        if found is not None:
            raise MismatchError(op, found)

    async def _change(self, op: Unary) -> None:
        if isinstance(op.request, rpc.CompactionRequest):
            await self.barrier(op)
            await self._let_etcd_catch_up()
            await self._hash_before_compaction(op, op.request.revision)
        await self._unary(op)

    async def _hash_before_compaction(self, op: Op, revision: int) -> None:
        if not self.compacted < revision <= self.revision or revision == 0:
            return
        request = rpc.HashKVRequest(revision=revision)
        known = await self._hash(op, request)
        everything = rpc.RangeRequest(
            key=b"\0", range_end=b"\0", revision=revision, count_only=True
        )
        alive: Any = await self.etcd.call("Range", everything)
        self._hashes[revision] = known if alive.count else None

    async def _unary(self, op: Unary) -> None:
        request = op.request
        refusal = self.differences.not_for_etcd(request)
        if refusal is not None:
            got = plain(await self.revstore.call(op.name, request))
            self._equal(op, request, refusal, got)
            return
        if isinstance(request, rpc.HashKVRequest):
            await self._hash(op, request)
            return
        answer, got = await self._ask(op.name, request)
        expected = self.differences.expected(request, answer, self.revision)
        self._equal(op, request, expected, got)
        self._follow(op, got)

    async def _hash(self, op: Op, request: rpc.HashKVRequest) -> Any:
        """Compare hashes and return etcd's.

        Where no key is alive etcd counts the rows that a compaction has yet to delete;
        so another hash than revstore's only counts once it stays.
        """
        got = plain(await self.revstore.call("HashKV", request))
        for_etcd = self.differences.for_etcd(request)
        deadline = time.monotonic() + SETTLED_S
        while True:
            answer = plain(await self.etcd.call("HashKV", for_etcd))
            if answer == errors.COMPACTED:
                self._compacted_hash(op, request, answer, got)
                return answer
            expected = self.differences.expected(request, answer, self.revision)
            if expected == got or time.monotonic() > deadline:
                self._equal(op, request, expected, got)
                return expected

    def _compacted_hash(
        self, op: Op, request: rpc.HashKVRequest, answer: Any, got: Any
    ) -> None:
        if request.revision not in self._hashes:
            self._equal(op, request, answer, got)
            return
        known = self._hashes[request.revision]
        if known is None:
            # With no key alive a compaction's hash is one that only 3.6 computes.
            return
        known.header.revision = self.revision
        allowed = self.differences.compacted_hash(known, self.compacted)
        again = got != errors.COMPACTED and got.compact_revision == self.compacted
        if got not in allowed and not (again and request.revision == self.compacted):
            self._equal(op, request, known, got)

    def _follow(self, op: Unary, got: Any) -> None:
        if isinstance(got, ApiError) or op.name in READS:
            return
        if got.header.revision > self.revision:
            self.revision = got.header.revision
            self._unsettled = True
        if isinstance(op.request, rpc.CompactionRequest):
            self.compacted = op.request.revision
        if isinstance(op.request, rpc.AlarmRequest) and op.request.action:
            self.differences.no_space = op.request.action == op.request.ACTIVATE

    async def _range_stream(self, op: RangeStream) -> None:
        request = op.request
        assert isinstance(request, rpc.RangeRequest)
        plain_request = rpc.RangeRequest()
        plain_request.CopyFrom(request)
        plain_request.ClearField("sort_order")
        plain_request.ClearField("sort_target")
        answer = plain(await self.etcd.call("Range", plain_request))
        got = plain(await self.revstore.range_stream(request))
        expected = self.differences.range_stream(request, answer)
        self._equal(op, plain_request, expected, got)

    async def _keep_alive(self, op: KeepAlive) -> None:
        answers = await asyncio.gather(
            *(side.keep_alive(op.leases) for side in self._sides)
        )
        for expected, got in zip(*answers, strict=True):
            self._equal(op, None, plain(expected), plain(got))

    async def _chosen_lease(self, op: ChosenLease) -> None:
        seen = await asyncio.gather(
            *(self._use_chosen_lease(side, op.ttl) for side in self._sides)
        )
        if seen[0] != seen[1]:
            raise MismatchError(op, f"  etcd:     {seen[0]}\n  revstore: {seen[1]}")

    async def _use_chosen_lease(self, side: Side, ttl: int) -> list[str]:
        """Grant, use and revoke a lease; what was seen, without its number."""
        granted: Any = plain(
            await side.call("LeaseGrant", rpc.LeaseGrantRequest(TTL=ttl))
        )
        assert not isinstance(granted, ApiError), granted
        lease = granted.ID
        alive = (await side.keep_alive((lease,)))[0]
        listed: Any = await side.call("LeaseLeases", rpc.LeaseLeasesRequest())
        ids = {status.ID for status in listed.leases}
        revoked = await side.call("LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
        again = await side.call("LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
        return [
            f"positive {lease > 0}",
            f"ttl {granted.TTL} at {granted.header.revision}",
            f"alive {alive.TTL} {lease == alive.ID}",
            f"listed {lease in ids}",
            f"revoked {plain(revoked)}",
            f"again {again}",
        ]

    async def _watch(self, op: Watch) -> None:
        kind = op.request.WhichOneof("request_union")
        if kind != "progress_request":
            if kind == "cancel_request":
                await self.barrier(op)
            if self._names_ended_watch(op):
                self.differences.use("id of an ended watch")
                return
        tapes = [await side.tape(op.stream) for side in self._sides]
        if kind == "create_request":
            await self._create(op, tapes)
        elif kind == "cancel_request":
            await self._cancel(op, tapes)
        else:
            await self.barrier(op, only=op.stream)

    def _names_ended_watch(self, op: Watch) -> bool:
        """Whether the request names a watcher that a compaction has ended."""
        tape = self.etcd.tapes.get(op.stream)
        if tape is None:
            return False
        ended = {record.watch_id for record in tape.records if record.compacted}
        request = op.request
        return (
            request.create_request.watch_id or request.cancel_request.watch_id
        ) in ended

    async def _create(self, op: Watch, tapes: list[WatchTape]) -> None:
        counts = [len(tape.records) + 1 for tape in tapes]
        assert counts[0] == counts[1]
        start = op.request.create_request.start_revision
        self._starts.setdefault(op.stream, []).append((start, self.compacted))
        for tape, count in zip(tapes, counts, strict=True):
            await tape.send(op.request)
            await until(
                lambda tape=tape, count=count: len(tape.records) >= count,  # type: ignore[misc]  # bound now
                f"created for {op}",
                tape,
            )
        left, right = (tape.records[-1].control[0] for tape in tapes)
        self._equal(op, None, plain(left), plain(right))
        self._unsettled = True
        self._lagging = self._lagging or 0 < start <= self.revision
        if 0 < start < self.compacted:
            records = [tape.records[-1] for tape in tapes]
            await until(lambda: all(r.ended for r in records), f"end of {op}", *tapes)

    async def _let_etcd_catch_up(self) -> None:
        """Wait until etcd's watchers have read the history that they asked for.

        It reads history ten times a second for all of them together, and a compaction
        before that ends even those that have nothing to read. So one more watcher that
        certainly gets something tells when that has happened.
        """
        if not self._lagging:
            return
        self._lagging = False
        create = rpc.WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=1)
        tape = await WatchTape.open(self.etcd.client, "etcd")
        try:
            await tape.send(rpc.WatchRequest(create_request=create))
            await until(
                lambda: any(r.events or r.ended for r in tape.records),
                "history",
                tape,
            )
        finally:
            await tape.close()

    async def _cancel(self, op: Watch, tapes: list[WatchTape]) -> None:
        """Cancel, and see by a progress answer that nothing else came."""
        for tape in tapes:
            await tape.send(op.request)
        self._unsettled = True
        await self.barrier(op, only=op.stream)

    async def _negative_watch(self, op: NegativeWatch) -> None:
        tape = await WatchTape.open(self.revstore.client, "revstore")
        try:
            await tape.send(op.request)
            await until(lambda: bool(tape.records), f"an answer to {op}", tape)
            got = plain(tape.records[0].control[0])
        finally:
            await tape.close()
        reason = "etcdserver: mvcc: required revision has been compacted"
        expected = rpc.WatchResponse(
            watch_id=-1, created=True, canceled=True, cancel_reason=reason
        )
        expected.header.revision = self.revision
        self.differences.use("negative watch")
        self._equal(op, None, expected, got)

    async def _close_watches(self, op: CloseWatches) -> None:
        await self.barrier(op)
        for side in self._sides:
            tape = side.tapes.pop(op.stream, None)
            if tape is not None:
                await tape.close()
        self._starts.pop(op.stream, None)

    async def _restart(self, op: Restart) -> None:
        await self.barrier(op)
        await self._commit_in_etcd()
        self._starts.clear()
        await asyncio.gather(*(side.restart(kill=op.kill) for side in self._sides))

    async def _commit_in_etcd(self) -> None:
        """Let etcd store what it has applied, by a call that begins with that.

        After a restart 3.4.23 applies entries again beyond the last successful change
        to a key, on leases that are newer: a put that was refused because its lease was
        not there can succeed then, and does.
        """
        await self.etcd.client.unary("/etcdserverpb.Maintenance/Hash", b"")

    async def _compare_history(self, op: CompareHistory) -> None:
        """HashKV from behind the compacted revision up to the current one."""
        for revision in range(max(self.compacted + 1, 1), self.revision + 1):
            request = rpc.HashKVRequest(revision=revision)
            read = Unary("HashKV", request)
            self._reads.append((op, asyncio.create_task(self._unary(read))))
            if len(self._reads) >= 16:
                await self.settle_reads()
        await self.settle_reads()

    async def barrier(self, op: Op, only: int | None = None) -> None:
        """Compare what the watch streams (or one of them) have said so far."""
        if only is None and not self._unsettled:
            return
        await self.settle_reads()
        for stream in sorted(self.etcd.tapes):
            if only in (None, stream):
                await self._settle_stream(op, stream)
        if only is None:
            self._unsettled = False

    async def _settle_stream(self, op: Op, stream: int) -> None:
        etcd, revstore = (side.tapes[stream] for side in self._sides)
        promised: list[list[Any]] | None = None
        if self._waits_for_future(stream, revstore):
            self.differences.use("progress beside a future watch")
        else:
            await self._progress(op, etcd, revstore)
            promised = self._all_said(stream, revstore)

        def due() -> list[list[Any]]:
            return self._all_said(stream, revstore) if promised is None else promised

        try:
            await until(
                lambda: self._all_said(stream, etcd) == due(),
                f"equal watches for {op}",
                etcd,
                revstore,
            )
        except TimeoutError:
            what = _first_difference(self._all_said(stream, etcd), due())
            raise MismatchError(op, f"  on stream {stream}, {what}") from None
        problems = [p for record in revstore.records for p in record.problems]
        if problems:
            raise MismatchError(op, f"  revstore on stream {stream}: {problems}")

    def _waits_for_future(self, stream: int, tape: WatchTape) -> bool:
        """Whether a watcher is there whose first revision is not."""
        starts = self._starts.get(stream, [])
        return any(
            start > self.revision + 1 and not record.ended
            for record, (start, _) in zip(tape.records, starts, strict=True)
        )

    async def _progress(self, op: Op, etcd: WatchTape, revstore: WatchTape) -> None:
        """Ask both how far they are; revstore then has sent everything."""
        answers = []
        for tape in (etcd, revstore):
            count = len(tape.progress) + 1
            await tape.send(PROGRESS)
            await until(
                lambda tape=tape, count=count: len(tape.progress) >= count,  # type: ignore[misc]  # bound now
                f"progress for {op}",
                tape,
            )
            answers.append(plain(tape.progress[-1]))
        self._equal(op, None, *answers)

    def _all_said(self, stream: int, tape: WatchTape) -> list[list[Any]]:
        return [self._said(stream, at, r) for at, r in enumerate(tape.records)]

    def _said(self, stream: int, at: int, record: Record) -> list[Any]:
        """A record in comparable form."""
        start, compacted = self._starts[stream][at]
        events = self.differences.history_from(start, compacted, record.events)
        control = [plain(response) for response in record.control]
        return [*control, *events]


def _first_difference(said: list[list[Any]], due: list[list[Any]]) -> str:
    """Where two streams begin to differ, in words."""
    for number, pair in enumerate(zip(said, due, strict=False)):
        for position, (left, right) in enumerate(zip_longest(*pair)):
            if left != right:
                texts = [line(one) if one else "nothing" for one in (left, right)]
                return (
                    f"watcher {number}, message {position}:\n"
                    f"  etcd:     {texts[0]}\n  revstore: {texts[1]}"
                )
    return f"{len(said)} watchers of etcd, {len(due)} of revstore"
