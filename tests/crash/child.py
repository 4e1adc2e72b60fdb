"""The process that is killed: opens a store, says what is in it, loads it.

``python -m tests.crash.child`` is a zygote: it imports everything once and forks for
each life that it is told of over its socket, so that a life costs milliseconds.
``python -m tests.crash.child LIFE`` lives one life and says its frames on stdout.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import msgspec

import revstore
from revstore.api.replica import Tag
from revstore.embedded.store import EmbeddedStore
from revstore.proto import rpc_pb2
from tests.crash.frames import Begin, Closed, Done, Failed, Opened, Seen, Speaker
from tests.crash.load import Load, Op
from tests.crash.model import facts_of, some_revisions

COMMAND_BYTES_MAX = 1 << 16


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is to do with its life."""

    directory: str
    backend: str
    run: int
    """Number of the life on this directory; names values and leases."""
    seed: int
    known: int
    """The revision up to which events need not be told."""
    writers: int = 1
    ops: int = 60
    """Requests of each writer; then the store is closed."""
    watch: bool = False
    die_opening: int = 0
    """Function calls into opening after which it kills itself; 0: it does not."""
    die_loading: int = 0
    die_closing: int = 0
    settings: dict[str, Any] = {}
    backend_options: dict[str, Any] = {}
    wal_options: dict[str, int] = {}


class Countdown:
    """Kills the process after so many calls and returns of functions, C ones included."""

    def __init__(self) -> None:
        self.calls = 0
        self._limit = 0

    def start(self, limit: int) -> None:
        """Count from now on; ``limit`` 0 only counts."""
        self.calls = 0
        self._limit = limit
        threading.setprofile(self._count)
        sys.setprofile(self._count)

    def stop(self) -> None:
        """Count no more; threads that run already go on."""
        self._limit = 0
        sys.setprofile(None)
        threading.setprofile(None)

    def _count(self, frame: FrameType, event: str, arg: Any) -> None:
        self.calls += 1
        if self.calls == self._limit:
            os.kill(os.getpid(), signal.SIGKILL)


def live(life: Life, speaker: Speaker) -> None:
    """Live until killed, or to the end."""
    countdown = Countdown()
    countdown.start(life.die_opening)
    store = revstore.open(
        life.directory,
        backend=life.backend,
        backend_options=life.backend_options,
        wal_options=life.wal_options,
        **life.settings,
    )
    found = look(store, life, countdown)
    speaker.say(found)
    countdown.stop()
    if life.die_loading:
        countdown.start(life.die_loading)
    threads = [
        threading.Thread(target=write, args=(store, life, number, 0, speaker))
        for number in range(1, life.writers)
    ]
    watcher = store.watch(prefix=b"", start_revision=store.revision + 1)
    if life.watch:
        thread = threading.Thread(target=follow, args=(watcher, speaker))
        threads.append(thread)
    for thread in threads:
        thread.start()
    write(store, life, 0, found.facts.revision, speaker)
    for thread in threads[: life.writers - 1]:
        thread.join()
    countdown.stop()
    if life.die_closing:
        countdown.start(life.die_closing)
    watcher.close()
    for thread in threads:
        thread.join()
    store.close()
    countdown.stop()
    speaker.say(Closed())


def look(store: EmbeddedStore, life: Life, countdown: Countdown) -> Opened:
    """What an opened store holds, while its housekeeping goes on."""
    calls = countdown.calls
    inner = store.replica.store
    events: list[Seen] = []
    with store._lock:
        revisions = some_revisions(inner, Random(life.seed), 3)
        facts = facts_of(inner, revisions)
        following = life.known + 1
        while following <= inner.revision:
            found, following = inner.events(following, 1000, 1 << 24)
            events += [Seen(one.revision, one.key, one.deleted) for one in found]
    pairs = {
        pair.key: pair.value
        for writer in range(3)
        for pair in store.range(b"%d/a" % writer, b"%d/c" % writer)
    }
    return Opened(facts, events, pairs, calls)


def write(
    store: EmbeddedStore, life: Life, writer: int, compactable: int, speaker: Speaker
) -> None:
    """The load of one writer. Compaction stays behind what the parent knows."""
    load = Load(Random(life.seed * 10 + writer), writer, life.run)
    try:
        for number in range(life.ops):
            op = load.next(compactable, store.compact_revision)
            speaker.say(Begin(writer, number, op.tag, op.payload))
            speaker.say(Done(writer, number, perform(store, op)))
    except Exception:
        speaker.say(Failed(traceback.format_exc()))
        os._exit(1)


def perform(store: EmbeddedStore, op: Op) -> int:
    """Make a request; its revision, 0 if the answer has none."""
    if op.tag == Tag.PUT:
        put = rpc_pb2.PutRequest.FromString(op.payload)
        return store.put(put.key, put.value, lease=put.lease).revision
    if op.tag == Tag.DELETE_RANGE:
        gone = rpc_pb2.DeleteRangeRequest.FromString(op.payload)
        return store.delete(gone.key, gone.range_end or None).revision
    if op.plain_puts:
        txn = rpc_pb2.TxnRequest.FromString(op.payload)
        puts = [one.request_put for one in txn.success]
        return store.put_many((put.key, put.value) for put in puts)
    if op.tag == Tag.TXN:
        request = rpc_pb2.TxnRequest.FromString(op.payload)
        return store._commit(Tag.TXN, request).revision
    if op.tag == Tag.LEASE_GRANT:
        grant = rpc_pb2.LeaseGrantRequest.FromString(op.payload)
        store.lease(grant.TTL, lease_id=grant.ID)
    elif op.tag == Tag.LEASE_REVOKE:
        store.revoke(rpc_pb2.LeaseRevokeRequest.FromString(op.payload).ID)
    else:
        store.compact(rpc_pb2.CompactionRequest.FromString(op.payload).revision)
    return 0


def follow(watcher: revstore.Watcher, speaker: Speaker) -> None:
    """Say what a watcher gets."""
    for event in watcher:
        deleted = event.type is revstore.EventType.DELETE
        speaker.say(Seen(event.revision, event.key, deleted))


def main() -> None:
    """Be a zygote, or live one life, by the argument."""
    if sys.argv[1].isdigit():
        breed(int(sys.argv[1]))
    else:
        live(msgspec.json.decode(sys.argv[1], type=Life), Speaker(1))


def breed(descriptor: int) -> None:
    """Fork a child for each command; the descriptor of its pipe comes with it."""
    commands = socket.socket(fileno=descriptor)
    while True:
        data, descriptors, _, _ = socket.recv_fds(commands, COMMAND_BYTES_MAX, 1)
        if not data:
            return
        life = msgspec.json.decode(data, type=Life)
        pid = os.fork()
        if pid == 0:
            commands.close()
            speaker = Speaker(descriptors[0])
            try:
                Path(life.directory).parent.mkdir(exist_ok=True)
                live(life, speaker)
            except BaseException:
                speaker.say(Failed(traceback.format_exc()))
                os._exit(1)
            os._exit(0)
        os.close(descriptors[0])
        commands.sendall(b"%d" % pid)
        commands.recv(1)  # The parent is through with the process id.
        os.waitpid(pid, 0)
        commands.sendall(b".")


if __name__ == "__main__":
    main()
