"""Members that talk inside one process: a transport for tests and simulations.

Rules of this file:

1. The clauses P-01 to P-14 hold as over sockets; only the bytes never leave the process.
2. Nothing is delivered inside the call that sends it: each lane is emptied by a callback
   of the event loop, which is its connection.
3. A link is what ``_connect`` made and either end may break; both are in this process,
   so a break is known to both in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from revstore import logs
from revstore.errors import ConfigError, TransportError, UsageError
from revstore.interfaces.peers import (
    QUESTION_BYTES_MAX,
    REMOVED,
    IncomingStream,
    Lane,
    OutgoingStream,
    PeerHandler,
    PeerOptions,
    Peers,
    PeerStats,
    PeerTls,
    PeerTransport,
)
from revstore.interfaces.transport import (
    ClientServer,
    ServeOptions,
    ServiceTable,
    TransportCapabilities,
)
from revstore.peer.backoff import Backoff

_log = logs.get(__name__)

SCHEME = "memory://"
MESSAGE_COST = 64
"""What a chunk counts against a stream's window besides its length."""


class MemoryNetwork:
    """The members of one process, by address."""

    def __init__(self) -> None:
        self.members: dict[str, MemoryPeers] = {}
        self._next = 1

    def transport(self) -> MemoryTransport:
        """A transport on this network. Raises: nothing."""
        return MemoryTransport(self)

    def bind(self, url: str, member: MemoryPeers) -> str:
        """Listen at an address, ``memory://`` alone picking one.

        Raises:
            ConfigError: it is of another form or in use.
        """
        if not url.startswith(SCHEME):
            raise ConfigError(f"URL {url!r} is of no known form; use {SCHEME}NAME")
        if url == SCHEME:
            url = f"{SCHEME}{self._next}"
            self._next += 1
        if url in self.members:
            raise ConfigError(f"cannot listen on {url!r}: the address is in use")
        self.members[url] = member
        return url

    def garbage(self, url: str, data: bytes) -> None:
        """Bytes that are no message come to an address. Raises: nothing."""
        member = self.members.get(url)
        if member is not None:
            _log.warn("connection ended", peer="garbage", reason=repr(data[:16]))


class MemoryTransport(PeerTransport):
    """Peers only; clients have ``revstore.api.inprocess``."""

    capabilities = TransportCapabilities(peers=True)

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    async def serve_clients(
        self, table: ServiceTable, options: ServeOptions
    ) -> ClientServer:
        raise ConfigError("the transport in memory serves no clients; choose another")

    async def join(self, options: PeerOptions, handler: PeerHandler) -> Peers:
        if not options.urls:
            raise ConfigError("no peer URL to listen on; name at least one")
        return MemoryPeers(self._network, options, handler)

    async def ask(
        self, url: str, question: bytes, tls: PeerTls | None, timeout_s: float
    ) -> bytes:
        if not url.startswith(SCHEME):
            raise ConfigError(f"URL {url!r} is of no known form; use {SCHEME}NAME")
        if len(question) > QUESTION_BYTES_MAX:
            raise TransportError(f"a question of {len(question)} bytes is too long")
        member = self._network.members.get(url)
        if member is None:
            raise TransportError(f"nobody listens on {url!r}")
        return member.answer(question)


class _Link:
    """What one member knows about another, and the way there."""

    def __init__(self, options: PeerOptions, urls: Sequence[str]) -> None:
        self.urls = tuple(urls)
        self.target: MemoryPeers | None = None
        """The other end while connected."""
        self.timer: asyncio.Handle | None = None
        """Runs the next attempt; None while connected."""
        self.paused = False
        """Whether the last attempt failed and the next is not yet due."""
        self.queues: tuple[deque[bytes], ...] = tuple(deque() for _ in Lane)
        self.queued_bytes = [0 for _ in Lane]
        self.scheduled = [False for _ in Lane]
        self.backoff = Backoff(options.retry_min_s, options.retry_max_s, options.random)
        self.streams: set[_Pipe] = set()
        self.sent_messages = 0
        self.sent_bytes = 0
        self.received_messages = 0
        self.received_bytes = 0
        self.dropped_messages = 0
        self.send_failures = 0
        self.round_trip_s: float | None = None

    def stats(self) -> PeerStats:
        return PeerStats(
            sent_messages=self.sent_messages,
            sent_bytes=self.sent_bytes,
            received_messages=self.received_messages,
            received_bytes=self.received_bytes,
            dropped_messages=self.dropped_messages,
            send_failures=self.send_failures,
            round_trip_s=self.round_trip_s,
            connected=self.target is not None,
        )


class MemoryPeers(Peers):
    """See ``Peers``."""

    def __init__(
        self, network: MemoryNetwork, options: PeerOptions, handler: PeerHandler
    ) -> None:
        self.options = options
        self._loop = asyncio.get_running_loop()
        self._network = network
        self._handler = handler
        self._links: dict[int, _Link] = {}
        self._removed: set[int] = set()
        self._unreachable: set[int] = set()
        self._closed = False
        self._urls = [network.bind(url, self) for url in options.urls]

    # The contract.

    def addresses(self) -> Sequence[str]:
        return tuple(self._urls)

    def set_peer(self, member: int, urls: Sequence[str]) -> None:
        if not urls:
            raise ConfigError(f"member {member:x} has no URL; give at least one")
        for url in urls:
            if not url.startswith(SCHEME):
                raise ConfigError(f"URL {url!r} is of no known form; use {SCHEME}NAME")
        if self._closed:
            return
        self._removed.discard(member)
        link = self._links.get(member)
        if link is None:
            link = self._links[member] = _Link(self.options, urls)
            self._attempt_soon(member, link)
        elif link.urls != tuple(urls):
            self._let_go(link, "the member has moved")
            link.urls = tuple(urls)
            link.backoff.reset()
            self._attempt_soon(member, link)

    def remove_peer(self, member: int) -> None:
        self._removed.add(member)
        link = self._links.pop(member, None)
        if link is not None:
            self._let_go(link, REMOVED)
        self._break_arrivals(lambda caller: caller.options.member_id == member, REMOVED)

    def send(self, to: int, lane: Lane, payload: bytes) -> bool:
        link = self._links.get(to)
        if link is None or self._closed or not self._queue(link, to, lane, payload):
            if link is not None:
                link.dropped_messages += 1
            self._say_unreachable_soon(to)
            return False
        link.sent_messages += 1
        link.sent_bytes += len(payload)
        return True

    async def open_stream(self, to: int, meta: bytes) -> OutgoingStream:
        link = self._links.get(to)
        if link is None:
            raise TransportError(f"member {to:x} is not known; nothing was sent")
        if link.target is None and not link.paused:
            await asyncio.sleep(0)
        target = link.target
        if target is None:
            raise TransportError(
                f"member {to:x} cannot be reached now; try again later"
            )
        pipe = _Pipe(
            self._loop, self.options.member_id, to, bytes(meta), target.options
        )
        link.streams.add(pipe)
        pipe.on_end = link.streams.discard
        self._loop.call_soon(target.take_stream, pipe)
        return pipe.writer

    def stats(self, member: int) -> PeerStats:
        link = self._links.get(member)
        return link.stats() if link is not None else PeerStats()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for url in self._urls:
            self._network.members.pop(url, None)
        for link in self._links.values():
            self._let_go(link, "this member is stopping")
        self._links.clear()
        self._break_arrivals(lambda _: True, "")
        await asyncio.sleep(0)

    # From other members.

    def judge(self, caller: MemoryPeers, to: int) -> str:
        """Why a call is refused, empty if it is not. Raises: nothing."""
        mine, other = self.options, caller.options
        reason = ""
        if other.cluster_id != mine.cluster_id:
            reason = (
                f"cluster id mismatch: the caller is of cluster {other.cluster_id:x}, "
                f"this member of {mine.cluster_id:x}"
            )
        elif to != mine.member_id:
            reason = (
                f"member id mismatch: the call is for member {to:x}, "
                f"this is {mine.member_id:x}"
            )
        elif other.member_id in self._removed:
            reason = REMOVED
        else:
            try:
                reason = self._handler.admit(other.member_id)
            except Exception:
                _log.exception("admitting a member raised")
                reason = "internal error of the called member; its log has the cause"
        if reason:
            member = f"{other.member_id:x}"
            _log.warn("refused a member", member=member, peer="memory", reason=reason)
        return reason

    def answer(self, question: bytes) -> bytes:
        """The node's answer to a caller who is no member yet. Raises: nothing."""
        answers: list[bytes] = []
        self._call(lambda: answers.append(self._handler.on_question(question)))
        return answers[0] if answers else b""

    def hint(self, member: int) -> None:
        """A member called: call it back at once (P-06). Raises: nothing."""
        link = self._links.get(member)
        if link is not None and link.target is None:
            link.backoff.reset()
            self._attempt_soon(member, link)

    def take(self, sender: int, lane: Lane, payload: bytes) -> None:
        """A message came. Raises: nothing."""
        if self._closed:
            return
        self._count_received(sender, len(payload))
        self._call(lambda: self._handler.on_message(sender, lane, payload))

    def take_stream(self, pipe: _Pipe) -> None:
        """A stream was opened. Raises: nothing."""
        if pipe.over:
            return
        if self._closed:
            pipe.fail("the reading member is stopping")
            return
        pipe.on_chunk = lambda size: self._count_received(pipe.sender, size)
        if not self._call(lambda: self._handler.on_stream(pipe.reader)):
            pipe.reader.refuse(
                "internal error of the reading member; its log has the cause"
            )

    def broken_by(self, target: MemoryPeers, reason: str) -> None:
        """The other end broke the link; a reason means that it refuses this member."""
        for member, link in tuple(self._links.items()):
            if link.target is target:
                self._pause(member, link, reason)

    # Inside.

    def _queue(self, link: _Link, to: int, lane: Lane, payload: bytes) -> bool:
        if link.target is None and link.paused:
            return False
        queue, limits = link.queues[lane], self.options.limits[lane]
        held = link.queued_bytes[lane] + len(payload)
        if queue and (len(queue) >= limits.messages_max or held > limits.bytes_max):
            return False
        queue.append(payload)
        link.queued_bytes[lane] = held
        self._schedule(link, lane)
        return True

    def _schedule(self, link: _Link, lane: Lane) -> None:
        if link.target is not None and not link.scheduled[lane]:
            link.scheduled[lane] = True
            self._loop.call_soon(self._empty, link, lane)

    def _empty(self, link: _Link, lane: Lane) -> None:
        link.scheduled[lane] = False
        queue = link.queues[lane]
        waiting = tuple(queue)
        queue.clear()
        link.queued_bytes[lane] = 0
        for payload in waiting:
            target = link.target
            if target is None:
                return
            if len(payload) > target.options.message_bytes_max:
                _log.warn(
                    "connection ended",
                    peer="memory",
                    reason=f"a message of {len(payload)} bytes is over the limit",
                )
                self.broken_by(target, "")
                return
            target.take(self.options.member_id, lane, payload)

    def _attempt_soon(self, member: int, link: _Link) -> None:
        if link.timer is not None:
            link.timer.cancel()
        link.paused = False
        link.timer = self._loop.call_soon(self._connect, member, link)

    def _connect(self, member: int, link: _Link) -> None:
        link.timer = None
        link.paused = False
        target = next(
            (found for url in link.urls if (found := self._network.members.get(url))),
            None,
        )
        if target is None:
            self._pause(member, link, "")
            return
        begin = self._loop.time()
        reason = target.judge(self, member)
        if reason:
            self._pause(member, link, reason)
            return
        link.target = target
        link.round_trip_s = self._loop.time() - begin
        link.backoff.reset()
        for lane in Lane:
            if link.queues[lane]:
                self._schedule(link, lane)
        target.hint(self.options.member_id)

    def _pause(self, member: int, link: _Link, refusal: str) -> None:
        self._let_go(link, refusal or "connection lost")
        link.send_failures += 1
        if refusal:
            link.backoff.longest()
            self._loop.call_soon(
                self._call, lambda: self._handler.on_refused(member, refusal)
            )
        link.paused = True
        link.timer = self._loop.call_later(
            link.backoff.next_s(), self._connect, member, link
        )
        self._say_unreachable_soon(member)

    def _let_go(self, link: _Link, reason: str) -> None:
        if link.timer is not None:
            link.timer.cancel()
            link.timer = None
        link.target = None
        for pipe in tuple(link.streams):
            pipe.fail(reason)
        link.streams.clear()
        for lane in Lane:
            link.dropped_messages += len(link.queues[lane])
            link.queues[lane].clear()
            link.queued_bytes[lane] = 0

    def _break_arrivals(
        self, chosen: Callable[[MemoryPeers], bool], reason: str
    ) -> None:
        for caller in tuple(self._network.members.values()):
            if caller is not self and chosen(caller):
                caller.broken_by(self, reason)

    def _count_received(self, sender: int, size: int) -> None:
        link = self._links.get(sender)
        if link is not None:
            link.received_messages += 1
            link.received_bytes += size

    def _say_unreachable_soon(self, member: int) -> None:
        if member not in self._unreachable:
            self._unreachable.add(member)
            self._loop.call_soon(self._say_unreachable, member)

    def _say_unreachable(self, member: int) -> None:
        self._unreachable.discard(member)
        self._call(lambda: self._handler.on_unreachable(member))

    def _call(self, callback: Callable[[], None]) -> bool:
        if self._closed:
            return True
        try:
            callback()
        except Exception:
            _log.exception("a callback of the node raised")
            return False
        return True


class _Pipe:
    """One stream: a bounded queue of chunks between a writer and a reader."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sender: int,
        to: int,
        meta: bytes,
        options: PeerOptions,
    ) -> None:
        self.loop = loop
        self.sender = sender
        self.to = to
        self.meta = meta
        self.window = options.stream_window_bytes
        self.chunks: deque[bytes] = deque()
        self.held_bytes = 0
        self.finished = False
        self.over = False
        self.error = ""
        self.verdict: asyncio.Future[bytes] = loop.create_future()
        self.on_end: Callable[[_Pipe], None] = lambda _: None
        self.on_chunk: Callable[[int], None] = lambda _: None
        self.writer = _Writer(self)
        self.reader = _Reader(self)
        self._waits: list[asyncio.Future[None]] = []

    async def change(self) -> None:
        """Wait until anything about the stream has changed."""
        wait: asyncio.Future[None] = self.loop.create_future()
        self._waits.append(wait)
        await wait

    def wake(self) -> None:
        """Something has changed. Raises: nothing."""
        waits, self._waits = self._waits, []
        for wait in waits:
            if not wait.done():
                wait.set_result(None)

    def fail(self, reason: str) -> None:
        """Break both ends. Raises: nothing."""
        if self.over:
            return
        self.error = f"stream of member {self.sender:x} to {self.to:x}: {reason}"
        self.chunks.clear()
        self.verdict.set_exception(TransportError(self.error))
        # A writer that never asks again has given up by itself.
        self.verdict.exception()
        self._end()

    def answer(self, answer: bytes) -> None:
        """The reader has it all. Raises: nothing."""
        if not self.over:
            self.verdict.set_result(answer)
            self._end()

    def _end(self) -> None:
        self.over = True
        self.on_end(self)
        self.wake()


class _Writer(OutgoingStream):
    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe

    async def write(self, chunk: bytes) -> None:
        pipe = self._pipe
        while not pipe.over and pipe.held_bytes >= pipe.window:
            await pipe.change()
        self._check()
        pipe.chunks.append(chunk)
        pipe.held_bytes += len(chunk) + MESSAGE_COST
        pipe.on_chunk(len(chunk))
        pipe.wake()

    async def finish(self) -> bytes:
        self._check()
        self._pipe.finished = True
        self._pipe.wake()
        return await asyncio.shield(self._pipe.verdict)

    def abort(self) -> None:
        self._pipe.fail("aborted by its sender")

    def _check(self) -> None:
        pipe = self._pipe
        if pipe.error:
            raise TransportError(pipe.error)
        if pipe.over or pipe.finished:
            raise TransportError(
                f"stream to member {pipe.to:x} was finished already; open another"
            )


class _Reader(IncomingStream):
    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self._read = False

    @property
    def sender(self) -> int:
        return self._pipe.sender

    @property
    def meta(self) -> bytes:
        return self._pipe.meta

    async def chunks(self) -> AsyncIterator[bytes]:
        pipe = self._pipe
        while True:
            if pipe.error:
                raise TransportError(pipe.error)
            if pipe.chunks:
                chunk = pipe.chunks.popleft()
                pipe.held_bytes -= len(chunk) + MESSAGE_COST
                pipe.wake()
                yield chunk
            elif pipe.finished:
                self._read = True
                return
            else:
                await pipe.change()

    def accept(self, answer: bytes = b"") -> None:
        if not self._read and not self._pipe.error:
            raise UsageError(
                "a stream is accepted after its chunks were read to the end"
            )
        self._pipe.answer(answer)

    def refuse(self, reason: str) -> None:
        self._pipe.fail(f"refused: {reason}")
