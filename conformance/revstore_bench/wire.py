"""A connection with many streams, for loads that are more than calls.

Rules of this file:

1. What the server says is taken apart to the message and no further; a load decides
   how much of a message it looks into.
2. A stream that ends without having been asked to, a reset and a GOAWAY make the load
   fail, and so does an answer that has no message.
3. Flow control is respected in both directions: more credit is given only for bytes
   that were taken.
"""

from __future__ import annotations

import ssl
from collections import defaultdict
from struct import Struct

from revstore_bench.load import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    TIMEOUT_S,
    WINDOW,
    WINDOW_BYTES,
    LoadError,
    control,
    frame,
    header_block,
)
from revstore_bench.secure import connect
from revstore_http2.hpack import Decoder

RECEIVE_BYTES = 1 << 20
PADDED = 8
STREAM_CREDIT = 1 << 24
"""A stream gets so much more once it has used it up."""

_HEAD = Struct(">IBI").unpack_from
_WORD = Struct(">I")


class Wire:
    """One connection."""

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext | None = None
    ) -> None:
        """Raises: OSError."""
        self._authority = f"{host}:{port}"
        self._socket = connect(host, port, TIMEOUT_S, context)
        self.fileno = self._socket.fileno
        self.close = self._socket.close
        self._next_stream = 1
        self._buffer = b""
        self._blocks: dict[str, bytes] = {}
        self._taken: dict[int, int] = {}
        """Bytes that came on each open stream."""
        self._owed: dict[int, int] = {}
        """Those of them for which it got no credit yet."""
        self._received = 0
        self._parts: dict[int, bytearray] = {}
        """Of each stream the message that has not come as a whole yet."""
        self._heads: list[tuple[int, bytes]] = []
        """The header blocks so far, which only a failure makes somebody read."""
        self.room = 65_535
        """Bytes of messages that may be sent now on all streams together."""
        self.ended: list[int] = []
        """Streams of single calls that are over, for whoever made them."""
        self._single: set[int] = set()
        """Streams of single calls that are not over."""
        largest = b"\x00\x04" + _WORD.pack((1 << 31) - 1)
        grow = frame(WINDOW, 0, 0, _WORD.pack(WINDOW_BYTES))
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0, largest) + grow)

    def call(self, path: str, message: bytes) -> int:
        """Make a single call; its stream is in ``ended`` when it is over.

        Raises: LoadError, OSError.
        """
        stream = self._begin(path, message, END_STREAM)
        self._single.add(stream)
        return stream

    def open(self, path: str, message: bytes) -> int:
        """Open a stream that stays, with a first message. Raises: LoadError, OSError."""
        return self._begin(path, message, 0)

    def send(self, stream: int, messages: list[bytes]) -> None:
        """More messages on a stream. Raises: LoadError, OSError."""
        data = b"".join(
            frame(DATA, 0, stream, b"\0" + _WORD.pack(len(one)) + one)
            for one in messages
        )
        self._spend(len(data) - 9 * len(messages))
        self._socket.sendall(data)

    def _begin(self, path: str, message: bytes, flags: int) -> int:
        block = self._blocks.get(path)
        if block is None:
            block = self._blocks[path] = header_block(path, self._authority)
        stream = self._next_stream
        self._next_stream = stream + 2
        self._spend(len(message) + 5)
        self._taken[stream] = self._owed[stream] = 0
        body = b"\0" + _WORD.pack(len(message)) + message
        self._socket.sendall(
            frame(HEADERS, END_HEADERS, stream, block)
            + frame(DATA, flags, stream, body)
        )
        return stream

    def _spend(self, size: int) -> None:
        self.room -= size
        if self.room < 0:
            raise LoadError("the server gives credit too slowly for this load")

    def receive(self) -> dict[int, bytes]:
        """What came of each body; waits for the first bytes.

        Raises: LoadError, OSError.
        """
        got = self._socket.recv(RECEIVE_BYTES)
        if not got:
            raise LoadError("the server closed the connection")
        buffer = self._buffer + got if self._buffer else got
        pieces: defaultdict[int, list[bytes]] = defaultdict(list)
        over: list[int] = []
        at, end = 0, len(buffer)
        while end - at >= 9:
            word, flags, stream = _HEAD(buffer, at)
            stop = at + 9 + (word >> 8)
            if stop > end:
                break
            if word & 0xFF:
                self._control(word & 0xFF, flags, stream, buffer[at + 9 : stop])
            else:
                pieces[stream].append(buffer[at + 9 : stop])
            if flags and word & 0xFF <= HEADERS:
                if flags & PADDED:
                    raise LoadError("padding is not for this load")
                if flags & END_STREAM:
                    over.append(stream)
            at = stop
        self._buffer = buffer[at:]
        bodies = {stream: b"".join(parts) for stream, parts in pieces.items()}
        self._credit(bodies)
        for stream in over:
            self._over(stream)
        return bodies

    def messages(self) -> list[tuple[int, bytes]]:
        """Whole messages and their streams; waits for the first bytes.

        Raises: LoadError, OSError.
        """
        whole: list[tuple[int, bytes]] = []
        for stream, body in self.receive().items():
            data: bytes | bytearray = body
            part = self._parts.get(stream)
            if part is not None:
                part += body
                if len(part) < 5 or len(part) < 5 + _WORD.unpack_from(part, 1)[0]:
                    continue
                data = self._parts.pop(stream)
            at = 0
            while len(data) - at >= 5:
                stop = at + 5 + _WORD.unpack_from(data, at + 1)[0]
                if data[at]:
                    raise LoadError("compression is not for this load")
                if stop > len(data):
                    break
                whole.append((stream, bytes(data[at + 5 : stop])))
                at = stop
            if at < len(data):
                self._parts[stream] = bytearray(data[at:])
        return whole

    def _credit(self, bodies: dict[int, bytes]) -> None:
        for stream, body in bodies.items():
            self._received += len(body)
            if stream not in self._taken:
                raise LoadError("bytes for a stream that is not open")
            self._taken[stream] += len(body)
            self._owed[stream] += len(body)
            if self._owed[stream] >= STREAM_CREDIT:
                self._grow(stream, self._owed[stream])
                self._owed[stream] = 0
        if self._received >= WINDOW_BYTES // 2:
            self._grow(0, self._received)
            self._received = 0

    def _grow(self, stream: int, size: int) -> None:
        self._socket.sendall(frame(WINDOW, 0, stream, _WORD.pack(size)))

    def _over(self, stream: int) -> None:
        if stream not in self._single:
            raise LoadError(f"the server ended a stream: {self._told(stream)}")
        self._single.remove(stream)
        del self._owed[stream]
        if not self._taken.pop(stream):
            raise LoadError(f"a call failed: {self._told(stream)}")
        self.ended.append(stream)

    def _told(self, stream: int) -> str:
        """Why a call ended; the tables of header compression need all blocks before."""
        decoder, why = Decoder(), "no reason"
        for number, block in self._heads:
            fields = dict(decoder.decode(block).pairs())
            if number == stream and b"grpc-message" in fields:
                why = fields[b"grpc-message"].decode()
        return why

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            self._heads.append((stream, payload))
        elif kind != WINDOW or not stream:
            answer, credit = control(kind, flags, payload)
            self.room += credit
            if answer:
                self._socket.sendall(answer)
