"""Killing a process again and again on one directory, and checking what is left.

What is checked at each opening that lives long enough to say what it found:

1. Every revision since the last opening is one request of one writer, in that writer's
   order; every acknowledged request is there at the revision it was told.
2. A request that was not acknowledged is there as a whole or not at all, and what was
   found once stays.
3. The facts (HashKV at the head and before, live pairs, older pairs, leases with their
   keys, compact revision) are those of the model that applied the same requests.
4. What a watcher was told is there.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from random import Random
from typing import Self

import msgspec

from revstore.api.replica import Tag
from revstore.errors import ApiError
from revstore.proto import rpc_pb2
from tests.crash.child import Life
from tests.crash.frames import Begin, Closed, Done, Failed, Opened, Seen, split_frames
from tests.crash.load import check_sums, writer_of
from tests.crash.model import Model

REPOSITORY = Path(__file__).resolve().parents[2]
OPS = 40
CALLS_LOADING_MAX = 30_000
CALLS_CLOSING_MAX = 4_000


class Zygote:
    """Starts processes that have everything imported; a context manager."""

    def __enter__(self) -> Self:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.child", str(theirs.fileno())],
                cwd=REPOSITORY,
                pass_fds=[theirs.fileno()],
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait(30)

    def run(self, life: Life, kill_done: int = -1, kill_bytes: int = 0) -> bytes:
        """What a child said in its life.

        It is killed once it has said ``kill_done`` acknowledgements and so many bytes
        more; -1 means that it is left to itself.
        """
        reader, writer = os.pipe()
        try:
            socket.send_fds(self._socket, [msgspec.json.encode(life)], [writer])
        finally:
            os.close(writer)
        pid = int(self._socket.recv(20))
        said = bytearray()
        limit = kill_bytes if kill_done == 0 else -1
        while True:
            if kill_done >= 0 and 0 <= limit <= len(said):
                os.kill(pid, signal.SIGKILL)
                kill_done = -1
            part = os.read(reader, 1 << 16)
            if not part:
                break
            said += part
            if kill_done > 0 and limit < 0:
                done = sum(type(one) is Done for one in split_frames(bytes(said)))
                if done >= kill_done:
                    limit = len(said) + kill_bytes
        os.close(reader)
        self._socket.sendall(b".")
        assert self._socket.recv(1) == b"."
        return bytes(said)


class Pending(msgspec.Struct):
    """A request that the model has not applied yet."""

    number: int
    tag: int
    payload: bytes
    acknowledged: int = -1
    """The revision it was answered with, 0 if the answer had none; -1: not answered."""


class Ordeal:
    """One directory and all lives that end on it."""

    def __init__(
        self, zygote: Zygote, directory: Path, backend: str, seed: int
    ) -> None:
        self._zygote = zygote
        self._directory = directory
        self._backend = backend
        self._random = Random(seed)
        self._model = Model()
        self._pending: dict[int, deque[Pending]] = {}
        self._seen: set[Seen] = set()
        self._calls_opening = 3000
        self._run = 0
        self.kills = 0
        self.kills_opening = 0
        self.checked = 0

    def go_on(self, kills: int) -> None:
        """Kill so many times, then look a last time. Raises: AssertionError."""
        try:
            while self.kills < kills:
                self._run += 1
                self._live()
            self._run += 1
            self._hear(self._zygote.run(self._life(ops=0)))
            assert self._run_checked == self._run
        finally:
            self._model.close()

    def _life(self, **wishes: object) -> Life:
        random = self._random
        settings = {
            "flush_interval_s": random.choice((0.0, 0.003, 0.1)),
            "snapshot_count": random.choice((15, 40, 10_000)),
            "catchup_entries": random.choice((0, 5, 20)),
            "compaction_batch_limit": random.choice((3, 50)),
            "compaction_sleep_s": 0.0,
        }
        life = Life(
            directory=str(self._directory),
            backend=self._backend,
            run=self._run,
            seed=random.getrandbits(32),
            known=self._model.revision,
            writers=random.choice((1, 1, 2, 3)),
            watch=random.random() < 0.4,
            ops=OPS,
            settings=settings,
            wal_options={"segment_bytes": random.choice((4096, 30_000, 200_000))},
        )
        return msgspec.structs.replace(life, **wishes)

    def _live(self) -> None:
        """One life, with one of five ends."""
        random = self._random
        draw = random.random()
        done, size = -1, 0
        life = self._life()
        if draw < 0.45:
            done = random.randint(1, OPS)
            size = random.choice((0, random.randrange(1500)))
        elif draw < 0.50:
            done = 0
        elif draw < 0.70:
            calls = random.randint(1, self._calls_opening)
            life = msgspec.structs.replace(life, die_opening=calls)
        elif draw < 0.90:
            calls = random.randint(1, CALLS_LOADING_MAX)
            life = msgspec.structs.replace(life, die_loading=calls)
        elif draw < 0.96:
            ops, calls = random.randint(0, 20), random.randint(1, CALLS_CLOSING_MAX)
            life = msgspec.structs.replace(life, ops=ops, die_closing=calls)
        else:
            life = msgspec.structs.replace(life, ops=random.randint(0, 20))
        self._hear(self._zygote.run(life, done, size))

    _run_checked = 0

    def _hear(self, said: bytes) -> None:
        closed = False
        for frame in split_frames(said):
            if isinstance(frame, Opened):
                self._check(frame)
            elif isinstance(frame, Begin):
                one = Pending(frame.number, frame.tag, frame.payload)
                self._pending.setdefault(frame.writer, deque()).append(one)
            elif isinstance(frame, Done):
                last = self._pending[frame.writer][-1]
                assert last.number == frame.number
                last.acknowledged = frame.revision
            elif isinstance(frame, Seen):
                self._seen.add(frame)
            elif isinstance(frame, Failed):
                raise AssertionError(frame.text)
            else:
                assert isinstance(frame, Closed)
                closed = True
        if not closed:
            self.kills += 1
            self.kills_opening += self._run_checked < self._run

    def _check(self, found: Opened) -> None:
        model, facts = self._model, found.facts
        self._calls_opening = found.calls
        assert facts.revision >= model.revision, "the revision went back"
        owners: dict[int, int] = {}
        for event in found.events:
            writer = writer_of(event.key)
            assert owners.setdefault(event.revision, writer) == writer, event
        assert sorted(owners) == list(range(model.revision + 1, facts.revision + 1))
        for revision in sorted(owners):
            self._apply_until(owners[revision], revision)
        for writer, pending in self._pending.items():
            for one in pending:
                if one.acknowledged >= 0 or _took_effect(one, found):
                    before = model.revision
                    self._apply(one)
                    text = f"writer {writer} lost acknowledged request {one}"
                    assert model.revision == before, text
            pending.clear()
        assert self._seen <= set(found.events), self._seen - set(found.events)
        self._seen.clear()
        assert facts == model.facts(sorted(facts.hashes))
        check_sums(found.pairs)
        model.settle()
        self._run_checked = self._run
        self.checked += 1

    def _apply_until(self, writer: int, revision: int) -> None:
        """Apply a writer's requests up to the one that made a revision."""
        pending = self._pending.get(writer, deque())
        while self._model.revision < revision:
            assert pending, f"nobody asked for revision {revision}"
            one = pending.popleft()
            self._apply(one)
            if self._model.revision == revision:
                told = (-1, 0, revision)
                assert one.acknowledged in told, f"{one} is at {revision}"

    def _apply(self, one: Pending) -> None:
        result = self._model.apply(one.tag, one.payload)
        assert not isinstance(result, ApiError), (one, result)


def _took_effect(one: Pending, found: Opened) -> bool:
    """Whether an unanswered request that makes no revision is there."""
    facts = found.facts
    if one.tag == Tag.LEASE_GRANT:
        return rpc_pb2.LeaseGrantRequest.FromString(one.payload).ID in facts.leases
    if one.tag == Tag.LEASE_REVOKE:
        revoke = rpc_pb2.LeaseRevokeRequest.FromString(one.payload)
        return revoke.ID not in facts.leases
    if one.tag == Tag.COMPACTION:
        compaction = rpc_pb2.CompactionRequest.FromString(one.payload)
        return facts.compact_revision == compaction.revision
    return False
