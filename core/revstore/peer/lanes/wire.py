"""What travels in the calls between members: frames, and who speaks to whom.

A frame is one gRPC message: a MessagePack array whose first element says what it is.
docs/design/grpcio-peers.md has the tables.

Rules of this file:

1. Bytes of another member become values here and nowhere else; what a decoder lets
   through has the types below.
2. What cannot be read is a ``ProtocolError`` with a reason that may be logged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Annotated, TypeVar

import msgspec

from revstore.api.errors import Code
from revstore.errors import TransportError
from revstore.interfaces.peers import Lane
from revstore.peer.lane_states import RefusedError
from revstore.peer.lanes.limits import (
    PEER_BATCH_BYTES_TARGET,
    PEER_BATCH_MESSAGES_MAX,
    PEER_FRAME_BYTES_MAX,
    PEER_PIECE_BYTES,
)

SERVICE = "revstore.Peers"
LANE_PATH = f"/{SERVICE}/Lane"
STREAM_PATH = f"/{SERVICE}/Stream"
ASK_PATH = f"/{SERVICE}/Ask"

PROTOCOL = "1"

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class ProtocolError(TransportError):
    """The other member broke the rules of the protocol."""


class Messages(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Whole messages of a lane, or chunks of a stream, in order."""

    payloads: list[bytes]


class Part(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A piece of a message that is too long for one frame; the others follow."""

    total: Count
    """Length of the whole message, the same in each of its parts."""
    data: bytes


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """A probe of a lane."""

    number: Count


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """The answer to the newest probe."""

    number: Count


class Open(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """The first frame of a stream."""

    meta: bytes


class Finish(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """All chunks of a stream were sent."""

    crc: Count
    """CRC-32C of all chunks, one behind the other."""
    total: Count
    """Their length."""


class Credit(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """How much more may be sent on a stream."""

    amount: Count


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """The reader of a stream has all of it."""

    answer: bytes


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=9, gc=False):
    """The reader of a stream does not want it."""

    reason: str


LaneFrame = Messages | Part | Ping
"""What the caller of a lane sends."""
ChunkFrame = Messages | Part | Open | Finish
"""What the writer of a stream sends."""
AnswerFrame = Credit | Accepted | Refused
"""What the reader of a stream sends."""

Frame = TypeVar("Frame")

encode = msgspec.msgpack.Encoder().encode
_LANE: msgspec.msgpack.Decoder[LaneFrame] = msgspec.msgpack.Decoder(LaneFrame)
_PONG: msgspec.msgpack.Decoder[Pong] = msgspec.msgpack.Decoder(Pong)
_CHUNK: msgspec.msgpack.Decoder[ChunkFrame] = msgspec.msgpack.Decoder(ChunkFrame)
_ANSWER: msgspec.msgpack.Decoder[AnswerFrame] = msgspec.msgpack.Decoder(AnswerFrame)


def read_lane(data: bytes) -> LaneFrame:
    """A frame that the caller of a lane sent. Raises: ProtocolError."""
    return _read(_LANE, data)


def read_pong(data: bytes) -> Pong:
    """A frame that the answerer of a lane sent. Raises: ProtocolError."""
    return _read(_PONG, data)


def read_chunk(data: bytes) -> ChunkFrame:
    """A frame that the writer of a stream sent. Raises: ProtocolError."""
    return _read(_CHUNK, data)


def read_answer(data: bytes) -> AnswerFrame:
    """A frame that the reader of a stream sent. Raises: ProtocolError."""
    return _read(_ANSWER, data)


def _read(decoder: msgspec.msgpack.Decoder[Frame], data: bytes) -> Frame:
    if len(data) > PEER_FRAME_BYTES_MAX:
        raise ProtocolError(
            f"a frame of {len(data)} bytes is over the limit {PEER_FRAME_BYTES_MAX}"
        )
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"no frame of the protocol: {error}") from error
    except RecursionError as error:
        raise ProtocolError("no frame of the protocol: nested too deep") from error


class Outbox:
    """Messages that wait, and the frames they leave in.

    Invariant: ``held_bytes`` is the length of what waits; a long message counts whole
    until its last part was taken.
    """

    __slots__ = ("_queue", "_sent", "held_bytes")

    def __init__(self) -> None:
        self._queue: deque[bytes] = deque()
        self._sent = 0
        """Bytes of the first message that were taken in parts."""
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, payload: bytes) -> None:
        """Let a message wait. Raises: nothing."""
        self._queue.append(payload)
        self.held_bytes += len(payload)

    def clear(self) -> int:
        """Drop everything; returns how many messages that were. Raises: nothing."""
        count = len(self._queue)
        self._queue.clear()
        self._sent = 0
        self.held_bytes = 0
        return count

    def next_frame(self) -> bytes | None:
        """The next frame to send, None if nothing waits. Raises: nothing."""
        queue = self._queue
        if not queue:
            return None
        first = queue[0]
        if len(first) > PEER_PIECE_BYTES:
            return self._next_part(first)
        batch: list[bytes] = []
        size = 0
        while (
            queue
            and size < PEER_BATCH_BYTES_TARGET
            and len(batch) < PEER_BATCH_MESSAGES_MAX
            and len(queue[0]) <= PEER_PIECE_BYTES
        ):
            payload = queue.popleft()
            batch.append(payload)
            size += len(payload)
        self.held_bytes -= size
        return encode(Messages(batch))

    def _next_part(self, whole: bytes) -> bytes:
        begin = self._sent
        self._sent = end = begin + PEER_PIECE_BYTES
        if end >= len(whole):
            self._queue.popleft()
            self._sent = 0
            self.held_bytes -= len(whole)
        return encode(Part(len(whole), whole[begin:end]))


class Inbox:
    """Puts the messages of frames together and keeps the limit (P-13)."""

    __slots__ = ("_limit", "_parts", "_total")

    def __init__(self, message_bytes_max: int) -> None:
        self._limit = message_bytes_max
        self._parts = bytearray()
        self._total = 0
        """Length of the message whose parts are coming; 0 if none is."""

    def payloads(self, frame: Messages | Part) -> list[bytes]:
        """The messages that a frame completes.

        Raises:
            ProtocolError: one is over the limit, or its parts do not fit.
        """
        if type(frame) is Part:
            return self._take(frame)
        assert isinstance(frame, Messages)
        if self._total:
            raise ProtocolError("a message came before all parts of the one before it")
        for payload in frame.payloads:
            if len(payload) > self._limit:
                self._refuse(len(payload))
        return frame.payloads

    @property
    def idle(self) -> bool:
        """Whether no message is half here. Raises: nothing."""
        return not self._total

    def _take(self, part: Part) -> list[bytes]:
        parts = self._parts
        if not self._total:
            if part.total > self._limit:
                self._refuse(part.total)
            self._total = part.total
        if part.total != self._total or not part.data:
            raise ProtocolError("a part does not belong to the message that has begun")
        parts += part.data
        if len(parts) > self._total:
            raise ProtocolError("the parts of a message are longer than the whole")
        if len(parts) < self._total:
            return []
        whole = bytes(parts)
        self._parts = bytearray()
        self._total = 0
        return [whole]

    def _refuse(self, size: int) -> None:
        raise ProtocolError(
            f"a message of {size} bytes is over the limit {self._limit}"
        )


class Hello(msgspec.Struct, frozen=True):
    """Who calls whom; it travels as metadata of each call."""

    cluster_id: int
    sender: int
    to: int
    lane: Lane
    link: int
    """Which of the sender's connections; a stream belongs to the lane of its own."""


Metadata = tuple[tuple[str, str], ...]


def write_hello(hello: Hello) -> Metadata:
    """The metadata of a call. Raises: nothing."""
    return (
        ("revstore-protocol", PROTOCOL),
        ("revstore-cluster-id", f"{hello.cluster_id:x}"),
        ("revstore-sender", f"{hello.sender:x}"),
        ("revstore-addressee", f"{hello.to:x}"),
        ("revstore-lane", str(int(hello.lane))),
        ("revstore-link", f"{hello.link:x}"),
    )


def read_hello(metadata: Iterable[tuple[str, str | bytes]] | None) -> Hello:
    """Who calls. Raises: ProtocolError: it is not said, or not in this protocol."""
    found = dict(metadata or ())
    protocol = found.get("revstore-protocol")
    if protocol != PROTOCOL:
        raise ProtocolError(f"the caller does not speak protocol {PROTOCOL}")
    lane = _number(found, "revstore-lane")
    if lane > max(Lane):
        raise ProtocolError(f"there is no lane {lane}")
    return Hello(
        cluster_id=_number(found, "revstore-cluster-id"),
        sender=_number(found, "revstore-sender"),
        to=_number(found, "revstore-addressee"),
        lane=Lane(lane),
        link=_number(found, "revstore-link"),
    )


def write_welcome(cluster_id: int, member_id: int) -> Metadata:
    """The metadata of an answer to a member that is let in. Raises: nothing."""
    return (
        ("revstore-cluster-id", f"{cluster_id:x}"),
        ("revstore-member-id", f"{member_id:x}"),
    )


def check_welcome(
    metadata: Mapping[str, str | bytes], cluster_id: int, member_id: int
) -> None:
    """Raises: ProtocolError: another member answered than was called."""
    cluster = _number(metadata, "revstore-cluster-id")
    member = _number(metadata, "revstore-member-id")
    if (cluster, member) != (cluster_id, member_id):
        raise ProtocolError(
            f"member {member_id:x} of cluster {cluster_id:x} was called, "
            f"{member:x} of {cluster:x} answered"
        )


def _number(found: Mapping[str, str | bytes], name: str) -> int:
    text = found.get(name)
    try:
        if not isinstance(text, str) or len(text) > 16:
            raise ValueError
        return int(text, 16)
    except ValueError:
        raise ProtocolError(f"{name} is missing or no number") from None


REFUSALS = frozenset({Code.FAILED_PRECONDITION, Code.PERMISSION_DENIED})
"""Statuses by which a member says that it does not want to talk to the caller."""


def error_of(code: int, details: str | None) -> TransportError:
    """What a call that ended says about the other member. Raises: nothing."""
    reason = details or Code(code).name.lower()
    return RefusedError(reason) if code in REFUSALS else TransportError(reason)
