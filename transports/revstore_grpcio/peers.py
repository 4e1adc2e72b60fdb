"""The links of one member to all others, over gRPC; see ``revstore.interfaces.peers``.

Rules of this file:

1. Each lane to a member has a connection of its own that this member makes, and each
   lane from a member one that the other makes: what stands still in one is in nobody's
   way (P-05).
2. Callbacks run from here and nowhere else, none after ``close`` (P-12), and none from
   inside a method that the node called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from time import time_ns
from typing import Any

import grpc
import grpc.aio

from revstore import logs
from revstore.errors import ConfigError, TransportError
from revstore.interfaces.peers import (
    QUESTION_BYTES_MAX,
    IncomingStream,
    Lane,
    OutgoingStream,
    PeerHandler,
    PeerOptions,
    Peers,
    PeerStats,
)
from revstore_grpcio.addresses import parse_listen_url, parse_peer_url
from revstore_grpcio.limits import (
    LIBRARY_RECEIVE_FACTOR,
    PEER_CALLS_MAX,
    PEER_END_GRACE_S,
    PEER_FRAME_BYTES_MAX,
    PEER_HANDSHAKE_TIMEOUT_S,
    PEER_KEEPALIVE_S,
    PEER_META_BYTES_MAX,
    PEER_STREAMS_MAX,
)
from revstore_grpcio.listen import bind
from revstore_grpcio.peer_arrivals import Arrival, PeerService, Refusal
from revstore_grpcio.peer_lane import PeerLane, State
from revstore_grpcio.peer_tls import (
    Calling,
    answering_options,
    host_of_caller,
    names_of_caller,
)
from revstore_grpcio.peer_wire import Hello
from revstore_grpcio.tls import server_credentials

_log = logs.get(__name__)

REMOVED = "the member was removed from the cluster"
_RAISED = "internal error of the called member; its log has the cause"


class Peer:
    """What is known about one other member."""

    def __init__(self, owner: GrpcioPeers, member: int, urls: Sequence[str]) -> None:
        self.owner = owner
        self.member = member
        self.addresses = [parse_peer_url(url) for url in urls]
        self.sent_messages = 0
        self.sent_bytes = 0
        self.received_messages = 0
        self.received_bytes = 0
        self.dropped_messages = 0
        self.send_failures = 0
        self.round_trip_s: float | None = None
        self.lanes = [PeerLane(self, lane, owner.options.limits[lane]) for lane in Lane]

    def stats(self) -> PeerStats:
        """The figures. Raises: nothing."""
        return PeerStats(
            sent_messages=self.sent_messages,
            sent_bytes=self.sent_bytes,
            received_messages=self.received_messages,
            received_bytes=self.received_bytes,
            dropped_messages=self.dropped_messages,
            send_failures=self.send_failures,
            round_trip_s=self.round_trip_s,
            connected=self.lanes[Lane.CONTROL].state is State.OPEN,
        )


class GrpcioPeers(Peers):
    """See ``Peers``."""

    def __init__(
        self, options: PeerOptions, handler: PeerHandler, calling: Calling | None
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.options = options
        self.calling = calling
        self._handler = handler
        self._server: Any = None
        self._urls: tuple[str, ...] = ()
        self._peers: dict[int, Peer] = {}
        self._removed: set[int] = set()
        self._current: dict[tuple[int, Lane], Arrival] = {}
        """The lanes that others have to this member; their streams hang on them."""
        self._links = count(time_ns())
        self._unreachable: set[int] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False

    async def listen(self) -> None:
        """Take the calls of others.

        Raises:
            ConfigError: an address or a certificate cannot be used.
        """
        addresses = [parse_listen_url(url) for url in self.options.urls]
        tls = self.options.tls
        credentials = None
        secret = next((address for address in addresses if address.tls), None)
        if secret is not None and tls is None:
            raise ConfigError(
                f"peer URL {secret.url!r} needs a certificate, a key and a trusted CA; "
                "name the three files"
            )
        if tls is not None:
            credentials = server_credentials(answering_options(tls))
        server = grpc.aio.server(options=_server_options(self.options))
        server.add_generic_rpc_handlers((PeerService(self),))
        try:
            urls = [bind(server, address, credentials) for address in addresses]
        except BaseException:
            await server.stop(None)
            raise
        await server.start()
        self._server = server
        self._urls = tuple(urls)

    # The contract.

    def addresses(self) -> Sequence[str]:
        return self._urls

    def set_peer(self, member: int, urls: Sequence[str]) -> None:
        if not urls:
            raise ConfigError(f"member {member:x} has no URL; give at least one")
        addresses = [parse_peer_url(url) for url in urls]
        if any(address.tls for address in addresses) and self.calling is None:
            raise ConfigError(
                f"member {member:x} is to be called by TLS, and this member has no "
                "certificate for that; name the peer certificate, key and trusted CA"
            )
        if self._closed:
            return
        self._removed.discard(member)
        known = self._peers.get(member)
        if known is None:
            known = self._peers[member] = Peer(self, member, urls)
            known.lanes[Lane.CONTROL].start()
            known.lanes[Lane.LOG].start()
        elif addresses != known.addresses:
            known.addresses = addresses
            for lane in known.lanes:
                lane.restart()

    def remove_peer(self, member: int) -> None:
        self._removed.add(member)
        known = self._peers.pop(member, None)
        if known is not None:
            for lane in known.lanes:
                lane.close(REMOVED)
        for arrival in tuple(self._current.values()):
            if arrival.sender == member:
                arrival.end(grpc.StatusCode.PERMISSION_DENIED, REMOVED)

    def send(self, to: int, lane: Lane, payload: bytes) -> bool:
        peer = self._peers.get(to)
        if peer is not None and peer.lanes[lane].send(payload):
            peer.sent_messages += 1
            peer.sent_bytes += len(payload)
            return True
        if peer is not None:
            peer.dropped_messages += 1
        self.unreachable(to)
        return False

    async def open_stream(self, to: int, meta: bytes) -> OutgoingStream:
        peer = self._peers.get(to)
        if peer is None:
            raise TransportError(f"member {to:x} is not known; nothing was sent")
        if len(meta) > PEER_META_BYTES_MAX:
            raise TransportError(
                f"{len(meta)} bytes about a stream are too many; send them in it"
            )
        link = await peer.lanes[Lane.BULK].ready()
        return link.open_stream(meta)

    def stats(self, member: int) -> PeerStats:
        peer = self._peers.get(member)
        return peer.stats() if peer is not None else PeerStats()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        tasks: list[asyncio.Task[None]] = []
        for peer in self._peers.values():
            for lane in peer.lanes:
                tasks += lane.close("this member is stopping")
        self._peers.clear()
        stopping = self.loop.create_task(self._server.stop(PEER_END_GRACE_S))
        # Calls are told after the listener has begun to refuse new ones.
        await asyncio.sleep(0)
        for arrival in tuple(self._current.values()):
            arrival.end(grpc.StatusCode.UNAVAILABLE, "the member is stopping")
        tasks += self._background
        await asyncio.wait({stopping, *tasks}, timeout=2 * PEER_END_GRACE_S)
        await stopping

    # From the connections.

    def next_link(self) -> int:
        """A number that no other connection of this member has, nor had before it was
        started again. Raises: nothing."""
        return next(self._links)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done. Raises: nothing."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def judge(self, hello: Hello, context: Any) -> Refusal | None:
        """Why a caller is turned away, None to let it in. Raises: nothing."""
        options, sender = self.options, hello.sender
        reason = ""
        if self._closed:
            return grpc.StatusCode.UNAVAILABLE, "the member is stopping"
        if hello.cluster_id != options.cluster_id:
            reason = (
                f"cluster id mismatch: the caller is of cluster {hello.cluster_id:x}, "
                f"this member of {options.cluster_id:x}"
            )
        elif hello.to != options.member_id:
            reason = (
                f"member id mismatch: the call is for member {hello.to:x}, "
                f"this is {options.member_id:x}"
            )
        elif sender in (0, options.member_id):
            reason = f"the caller claims to be member {sender:x}"
        if reason:
            return grpc.StatusCode.FAILED_PRECONDITION, reason
        known = self._peers.get(sender)
        hosts = [address.host for address in known.addresses] if known else []
        reason = self._misfit(context, hosts)
        if not reason and sender in self._removed:
            reason = REMOVED
        if not reason:
            reason = self._turned_away(sender)
        return (grpc.StatusCode.PERMISSION_DENIED, reason) if reason else None

    def admitted_lane(self, arrival: Arrival) -> None:
        """A lane of a member begins. Raises: nothing."""
        key = (arrival.sender, arrival.lane)
        older = self._current.get(key)
        if older is not None:
            older.end(grpc.StatusCode.UNAVAILABLE, "a newer connection took its place")
        self._current[key] = arrival
        peer = self._peers.get(arrival.sender)
        if peer is not None:
            for lane in peer.lanes:
                lane.hint()

    def admitted_stream(self, arrival: Arrival) -> Refusal | None:
        """A stream of a member begins, if there is room. Raises: nothing."""
        lane = self._current.get((arrival.sender, Lane.BULK))
        if lane is None or lane.link != arrival.link:
            return grpc.StatusCode.UNAVAILABLE, "the lane of the stream is gone"
        if len(lane.streams) >= PEER_STREAMS_MAX:
            reason = f"more than {PEER_STREAMS_MAX} streams at once"
            return grpc.StatusCode.RESOURCE_EXHAUSTED, reason
        lane.streams.add(arrival)
        return None

    def departed(self, arrival: Arrival) -> None:
        """A call that was made to this member is over. Raises: nothing."""
        lane = self._current.get((arrival.sender, arrival.lane))
        if lane is arrival:
            del self._current[arrival.sender, arrival.lane]
        elif lane is not None:
            lane.streams.discard(arrival)

    def answer(self, question: bytes, context: Any) -> bytes | str:
        """The node's answer to a caller who is no member yet (P-15), or why there is
        none. Raises: nothing."""
        if self._closed or len(question) > QUESTION_BYTES_MAX:
            return "a question is over the limit, or came too late"
        misfit = self._misfit(context, ())
        if misfit:
            return misfit
        try:
            return self._handler.on_question(question)[:QUESTION_BYTES_MAX]
        except Exception:
            _log.exception("answering a question raised")
            return b""

    def count_received(self, sender: int, size: int) -> None:
        """Something came. Raises: nothing."""
        peer = self._peers.get(sender)
        if peer is not None:
            peer.received_messages += 1
            peer.received_bytes += size

    def deliver(self, sender: int, lane: Lane, payload: bytes) -> None:
        """A message came. Raises: nothing."""
        if self._closed:
            return
        self.count_received(sender, len(payload))
        try:
            self._handler.on_message(sender, lane, payload)
        except Exception:
            _log.exception("taking a message raised", member=f"{sender:x}")

    def opened(self, stream: IncomingStream) -> None:
        """A member opened a stream. Raises: nothing."""
        if self._closed:
            return
        try:
            self._handler.on_stream(stream)
        except Exception:
            _log.exception("taking a stream raised", member=f"{stream.sender:x}")
            stream.refuse("internal error of the reading member; its log has the cause")

    def unreachable(self, member: int) -> None:
        """Something for a member was lost; said once a turn (P-04). Raises: nothing."""
        if self._closed or member in self._unreachable:
            return
        self._unreachable.add(member)
        self.loop.call_soon(self._say_unreachable, member)

    def refused(self, member: int, reason: str) -> None:
        """A member turned this one away. Raises: nothing."""
        if not self._closed:
            self.loop.call_soon(self._say_refused, member, reason)

    # Inside.

    def _misfit(self, context: Any, hosts: Sequence[str]) -> str:
        """Why the certificate of a caller is not good for it; empty if it is."""
        tls, names = self.options.tls, names_of_caller(context)
        if tls is None or names is None:
            return ""
        if names.fit(tls.allowed_names, (*hosts, host_of_caller(context))):
            return ""
        what = "an allowed name" if tls.allowed_names else "its address"
        return f"the certificate is not valid for {what}"

    def _turned_away(self, member: int) -> str:
        try:
            return self._handler.admit(member)
        except Exception:
            _log.exception("admitting a member raised", member=f"{member:x}")
            return _RAISED

    def _say_unreachable(self, member: int) -> None:
        self._unreachable.discard(member)
        self._say(lambda: self._handler.on_unreachable(member))

    def _say_refused(self, member: int, reason: str) -> None:
        self._say(lambda: self._handler.on_refused(member, reason))

    def _say(self, callback: Callable[[], None]) -> None:
        if self._closed:
            return
        try:
            callback()
        except Exception:
            _log.exception("a callback of the node raised")


async def join(options: PeerOptions, handler: PeerHandler) -> GrpcioPeers:
    """Listen for other members.

    Raises:
        ConfigError: an address or a certificate cannot be used; the message names it.
    """
    if not options.urls:
        raise ConfigError("no peer URL to listen on; name at least one")
    calling = Calling(options.tls) if options.tls is not None else None
    peers = GrpcioPeers(options, handler, calling)
    await peers.listen()
    return peers


def _server_options(options: PeerOptions) -> list[tuple[str, int]]:
    return [
        # Two members on one port would share their callers in silence.
        ("grpc.so_reuseport", 0),
        (
            "grpc.max_receive_message_length",
            PEER_FRAME_BYTES_MAX * LIBRARY_RECEIVE_FACTOR,
        ),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", PEER_CALLS_MAX),
        # A caller that vanished without a word is found out, and its streams fail.
        ("grpc.keepalive_time_ms", int(PEER_KEEPALIVE_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.probe_timeout_s * 1000)),
        ("grpc.server_handshake_timeout_ms", int(PEER_HANDSHAKE_TIMEOUT_S * 1000)),
    ]
