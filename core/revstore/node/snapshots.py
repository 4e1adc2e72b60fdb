"""Snapshots between members: what a lagging one gets, and how it takes it over.

A snapshot is a stream of bytes (``revstore.snapshot.format``). Whoever carries it from
member to member, ``SnapshotStreams`` over a transport or the simulator, does so:

    sender      ``open`` -> an ``Outgoing``; ``read`` until it is over; ``sent``
    receiver    ``receive`` -> an ``Incoming``; ``write`` each piece, ``finish``; then
                ``received``, or ``broken`` at any time

Rules of this file:

1. A received snapshot waits in the inbox, whole and durable, before the log forgets
   what it replaces and before the backend is touched. It leaves the inbox after the
   backend has all of it, durably. A crash in between is finished at the next start. A
   backend that keeps nothing over a restart gets it again at every start.
2. While the backend is being replaced nobody reads it (``Store.suspend``).
3. One snapshot at a time goes to each member, and one comes in. The newer one goes on:
   terms decide, and within a term there is one sender.
4. Every snapshot that consensus asked for is reported to it, once.
5. A snapshot that is on its way keeps the log from its own entry on from being purged,
   and so does one that arrived, for a while: its receiver needs what follows, and the
   term of the entry before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from revstore import logs
from revstore.errors import (
    ApiError,
    CorruptionError,
    InvariantViolation,
    RevstoreError,
)
from revstore.interfaces.backend import Backend
from revstore.interfaces.backend import Snapshot as Reader
from revstore.interfaces.consensus import Message, MessageType, Snapshot
from revstore.interfaces.wal import Wal
from revstore.mvcc.state import STATE_KEY, decode_state
from revstore.mvcc.tables import META
from revstore.peer.codec import decode_message, encode_message
from revstore.snapshot.format import (
    Checker,
    SnapshotHeader,
    decode_header,
    encode_header,
)
from revstore.snapshot.inbox import Inbox, Spool
from revstore.snapshot.install import Installation
from revstore.snapshot.reader import SnapshotReader
from revstore.snapshot.writer import describe, write_snapshot

if TYPE_CHECKING:
    from revstore.node.replica import Replica

LOG = logs.get(__name__)

LOG_KEPT_S = 30.0
"""How long a snapshot that arrived keeps the log behind it (etcd: 30 s)."""

Installed = Callable[[Exception | None], None]


class Refused(RevstoreError):  # noqa: N818 - it is an answer
    """The receiver does not want the snapshot; the text says why."""


class Offer(msgspec.Struct, frozen=True):
    """What the receiver is told before the first byte."""

    message: bytes
    """raftpb.Message, with the snapshot's place in the log and no data."""
    header: bytes


class Outgoing:
    """A snapshot on its way to another member."""

    def __init__(self, message: Message, log_needed: int) -> None:
        self.message = message
        self.over = False
        """Whether nobody wants it any more: stop, and report it with ``sent``."""
        self.log_needed = log_needed
        """The log from this entry on has to stay (rule 5)."""
        self.offer = b""
        """What to open the stream with."""
        self.header: SnapshotHeader | None = None
        self._reader: Reader | None = None
        self._pieces: Iterator[bytes] = iter(())

    def begin(self, reader: Reader, cluster_id: int) -> None:
        """Read from a view of the backend. Raises: StorageError."""
        self._reader = reader
        self.header = header = describe(reader, cluster_id, self.message.sender)
        marker = msgspec.structs.replace(
            self.message, snapshot=Snapshot(header.meta, b"")
        )
        self.offer = msgspec.msgpack.encode(
            Offer(encode_message(marker), encode_header(header))
        )
        self.log_needed = header.index
        self._pieces = write_snapshot(reader, header)

    def read(self) -> bytes | None:
        """The next piece, None behind the last; on any thread, one call at a time.

        Raises:
            ConfigError: pyarrow is not installed.
            StorageError: the engine failed.
        """
        return next(self._pieces, None)

    def close(self) -> None:
        """Let go of the backend; no ``read`` may be running. Raises: nothing."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
        if self._reader is not None:
            self._reader.close()


class Incoming:
    """A snapshot that comes in; methods are called by one thread at a time."""

    def __init__(
        self, message: Message, header: SnapshotHeader, token: bytes, spool: Spool
    ) -> None:
        assert message.snapshot is not None
        self.message = msgspec.structs.replace(
            message, snapshot=Snapshot(message.snapshot.meta, token)
        )
        self.header = header
        self.over = False
        """Whether another one took its place: stop, and call ``broken``."""
        self.spool = spool
        self._checker = Checker()

    def write(self, piece: bytes) -> None:
        """Take the next bytes. Raises: StorageError."""
        self._checker.feed(piece)
        self.spool.write(piece)

    def finish(self) -> None:
        """All came: see that it is whole and what was offered, and make it durable.

        Raises:
            ConfigError: pyarrow is not installed.
            CorruptionError: it is damaged, or something else than what was offered.
            FormatError: a newer revstore wrote it.
            StorageError: it could not be written.
        """
        self._checker.finish()
        self.spool.finish()
        with self.spool.open() as file:
            reader = SnapshotReader(file)
            found = reader.header
            reader.close()
        if found != self.header:
            raise CorruptionError(
                f"a snapshot of cluster {self.header.cluster_id:x} at entry "
                f"{self.header.index} was offered, but what came is of cluster "
                f"{found.cluster_id:x} at entry {found.index}"
            )

    @property
    def bytes(self) -> int:
        """Bytes that came."""
        return self._checker.bytes


def finish_install(backend: Backend, wal: Wal, inbox: Inbox) -> None:
    """What a crash left half done (rule 1); to be called before the store is opened.

    Raises:
        ConfigError: pyarrow is not installed.
        CorruptionError: the snapshot that waits is damaged.
        StorageError: the engine failed.
    """
    file = inbox.open()
    if file is None:
        inbox.clear()
        return
    try:
        installation = Installation(backend, file)
    except CorruptionError as exc:
        raise CorruptionError(
            f"this member was taking over a snapshot of the leader, which is damaged "
            f"now: {exc}; remove the member from the cluster, delete its data "
            "directory and add it again"
        ) from exc
    try:
        with backend.snapshot() as reader:
            row = reader.get(META, STATE_KEY)
        applied = 0 if row is None else decode_state(row).applied_index
        # What the log does not know of was never begun with; what the backend has a
        # state of was finished.
        index = installation.header.index
        known = index <= wal.recovery().snapshot.index
        if known and applied < index:
            LOG.info("installing the snapshot that was received", index=index)
            while not installation.step():
                pass
    finally:
        installation.close()
    if backend.capabilities.persistent or not known:
        inbox.clear()


class Snapshots:
    """Sending, receiving and taking over, for one replica; all of it on the loop."""

    def __init__(self, replica: Replica, inbox: Inbox) -> None:
        self._replica = replica
        self._inbox = inbox
        self._sending: dict[int, Outgoing] = {}
        self._arrived: list[tuple[float, int]] = []
        """(until when, from which entry on) the log stays for receivers (rule 5)."""
        self._incoming: Incoming | None = None
        self._received = 0

    # ----- sending

    def open(self, message: Message, opened: Callable[[Outgoing], None]) -> None:
        """Prepare what consensus wants sent.

        ``opened`` gets it; whoever gets it calls ``sent`` once. Without ``opened``
        nothing came of it. Raises: nothing.
        """
        replica = self._replica
        before = self._sending.get(message.to)
        if before is not None:
            before.over = True
        outgoing = self._sending[message.to] = Outgoing(message, replica.applied)

        def ready(reader: Reader | ApiError) -> None:
            if isinstance(reader, ApiError):
                self.sent(outgoing, reader.message)
                return
            try:
                outgoing.begin(reader, replica.cluster_id)
            except RevstoreError as exc:
                reader.close()
                self.sent(outgoing, f"{exc}")
                return
            assert outgoing.header is not None
            LOG.info(
                "sending a snapshot",
                to=f"{message.to:x}",
                index=outgoing.header.index,
            )
            opened(outgoing)

        replica.open_snapshot(ready)

    def wanted(self, outgoing: Outgoing) -> bool:
        """Whether it makes sense to go on with it. Raises: nothing."""
        replica = self._replica
        return not (
            outgoing.over or replica.stopped or replica.term != outgoing.message.term
        )

    def sent(self, outgoing: Outgoing, failure: str = "") -> None:
        """It arrived, or failed for a reason; no ``read`` may be running.

        Raises: nothing.
        """
        outgoing.close()
        replica, to = self._replica, outgoing.message.to
        if self._sending.get(to) is outgoing:
            del self._sending[to]
        if failure:
            LOG.warn("a snapshot was not sent", to=f"{to:x}", reason=failure)
        else:
            until = replica.clock.now() + LOG_KEPT_S
            self._arrived.append((until, outgoing.log_needed))
            LOG.info("sent a snapshot", to=f"{to:x}", index=outgoing.log_needed)
        if outgoing.over or replica.stopped:
            return  # Another one is on its way, and that one is reported.
        replica.consensus.report_snapshot(to, not failure)
        replica.shell.request_pump()

    def purgeable(self, index: int) -> int:
        """How far the log may be purged if ``index`` is wished for (rule 5).

        Raises: nothing.
        """
        now = self._replica.clock.now()
        self._arrived = [kept for kept in self._arrived if kept[0] > now]
        needed = [outgoing.log_needed for outgoing in self._sending.values()]
        needed += [first for _, first in self._arrived]
        return min(index, *(first - 1 for first in needed)) if needed else index

    # ----- receiving

    def receive(self, sender: int, offer: bytes) -> Incoming:
        """Another member offers a snapshot.

        Raises:
            Refused: it is not wanted now, or no snapshot for this member.
            StorageError: there is no room for it.
        """
        message, header = self._read_offer(sender, offer)
        replica, before = self._replica, self._incoming
        status = replica.consensus.status()
        if replica.stopped or replica.installing:
            raise Refused("the member is taking over another snapshot, or stops")
        if message.term < status.term:
            raise Refused(f"it is of term {message.term}, this is term {status.term}")
        if before is not None and message.term < before.message.term:
            raise Refused("a newer leader sends a snapshot already")
        if header.index <= status.commit:
            # Consensus needs no data to tell the leader where this member really is.
            replica.receive((message,))
            raise Refused(f"this member has {status.commit} entries already")
        if before is not None:
            before.over = True
        self._received += 1
        token = b"%d" % self._received
        found = Incoming(message, header, token, self._inbox.spool())
        self._incoming = found
        LOG.info("receiving a snapshot", sender=f"{sender:x}", index=header.index)
        return found

    def _read_offer(self, sender: int, offer: bytes) -> tuple[Message, SnapshotHeader]:
        replica = self._replica
        try:
            found = msgspec.msgpack.decode(offer, type=Offer)
            message = decode_message(found.message)
            header = decode_header(found.header)
        except (msgspec.MsgspecError, RevstoreError) as exc:
            raise Refused(f"what is offered cannot be read: {exc}") from exc
        if header.cluster_id != replica.cluster_id:
            raise Refused(
                f"it is of cluster {header.cluster_id:x}, "
                f"this is cluster {replica.cluster_id:x}"
            )
        if (
            message.type is not MessageType.SNAP
            or (message.to, message.sender) != (replica.member_id, sender)
            or message.snapshot != Snapshot(header.meta)
        ):
            raise Refused("it is no snapshot for this member")
        return message, header

    def received(self, incoming: Incoming) -> bool:
        """All of it is here, checked and durable; whether it was taken over.

        Raises: nothing.
        """
        replica = self._replica
        if incoming.over or replica.stopped or replica.installing:
            self.broken(incoming)
            return False
        replica.receive((incoming.message,))
        replica.pump()
        if not replica.installing:
            # Consensus knows better by now.
            self.broken(incoming)
            return False
        return True

    def broken(self, incoming: Incoming) -> None:
        """It will not be completed; no ``write`` may be running. Raises: nothing."""
        incoming.over = True
        incoming.spool.discard()
        if self._incoming is incoming:
            self._incoming = None

    def is_expected(self, message: Message) -> bool:
        """Whether a snapshot message may go to consensus: what it stands for is here,
        or consensus will not ask for it. Raises: nothing."""
        snapshot, incoming = message.snapshot, self._incoming
        if snapshot is None:
            return False
        if incoming is not None and snapshot is incoming.message.snapshot:
            return True
        return snapshot.meta.index <= self._replica.consensus.status().commit

    # ----- taking over

    def install(self, snapshot: Snapshot, installed: Installed) -> None:
        """Replace log and backend (rule 1), step by step in the thread for writes.

        ``installed`` hears how it went, unless the replica is stopped before.
        Raises: nothing.
        """
        incoming, self._incoming = self._incoming, None
        if incoming is None or snapshot != incoming.message.snapshot:
            installed(InvariantViolation("consensus took a snapshot that is not here"))
            return
        replica, backend, wal = self._replica, self._replica.backend, self._replica.wal

        def begin() -> Installation:
            incoming.spool.commit()
            wal.save_snapshot(snapshot.meta)
            file = self._inbox.open()
            assert file is not None
            return Installation(backend, file)

        def begun(result: Installation | Exception) -> None:
            if isinstance(result, Exception):
                installed(result)
            else:
                go_on(result)

        def go_on(installation: Installation) -> None:
            if replica.stopped:
                installation.close()
            else:
                replica.shell.run_in_thread(
                    partial(step, installation), partial(stepped, installation)
                )

        def step(installation: Installation) -> bool:
            over = installation.step()
            if over:
                installation.close()
                if backend.capabilities.persistent:
                    self._inbox.clear()
            return over

        def stepped(installation: Installation, result: bool | Exception) -> None:
            if isinstance(result, Exception):
                installation.close()
                installed(result)
            elif result:
                installed(None)
            else:
                go_on(installation)

        replica.shell.run_in_thread(begin, begun)

    def adopt(self, snapshot: Snapshot) -> None:
        """Rebuild what is derived from the backend.

        Raises:
            StorageError: the engine failed.
        """
        replica = self._replica
        replica.store.reload()
        replica.hub.resync()
        replica.lessor.reload()
        replica.auth.reload()
        replica.alarms.reload()
        replica.cluster.reload()
        LOG.info("took over a snapshot", index=snapshot.meta.index)
