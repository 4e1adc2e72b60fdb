"""The receiving half of streams: messages out of DATA, and credit for their senders.

Rules of this file:

1. The connection's credit is renewed as bytes arrive, whatever becomes of them: no
   stream can take it from another. What may pile up is bounded by the streams' credit.
2. A stream's credit is renewed when its messages are whole and it is not on hold. A
   message longer than what is left of the credit gets the difference at once, out of
   ``unfinished_bytes_max``; if that is used up, it waits its turn. A message is given
   all of it or nothing, so that every one that was begun can be finished.
3. The length of a message is checked as soon as its prefix is there.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections import OrderedDict, deque
from struct import Struct

from revstore_http2 import frames
from revstore_http2.codes import MESSAGE_PREFIX_BYTES, ErrorCode, Status
from revstore_http2.events import MessageReceived
from revstore_http2.faults import CallFault, ConnectionFault, StreamFault
from revstore_http2.limits import Limits
from revstore_http2.sending import Sending
from revstore_http2.stream import EMPTY, Stream

_PREFIX = Struct(">BI")
_GZIP = zlib.MAX_WBITS | 16


class Intake(Sending):
    """What arrives on streams."""

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits, now)
        self._received = 0
        """Bytes of DATA for which the connection's credit was not renewed yet."""
        self._unfinished_left = limits.unfinished_bytes_max
        self._wanting: OrderedDict[int, Stream] = OrderedDict()
        """Streams whose ``wanted`` is waited for, the oldest first."""

    # What the shell does.

    def hold(self, stream_id: int) -> None:
        """Give no messages of a stream, and stop its sender soon. Raises: nothing."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.on_hold = True

    # What roles decide.

    @abstractmethod
    def _stream_ended(self, stream: Stream) -> None:
        """The other side has ended its direction; all its messages are whole."""

    @abstractmethod
    def _call_fault(self, stream: Stream, fault: CallFault) -> None:
        """End a call with a status that the machine gives."""

    # The inside.

    def _take_data(self, stream: Stream, data: bytes, end: bool) -> None:
        """The content of a DATA frame of a stream that is open there."""
        if stream.left is not None:
            stream.left -= len(data)
            if stream.left < 0 or (end and stream.left):
                raise StreamFault(
                    stream.stream_id,
                    ErrorCode.PROTOCOL_ERROR,
                    "the content is not as long as content-length says (8.1.1)",
                )
        # Before anything else, so that no credit is given to one that needs none.
        stream.ended_there = end
        try:
            if data:
                self._assemble(stream, data)
            if end:
                self._give_back(stream)
                if stream.body:
                    raise CallFault(Status.INTERNAL, "unexpected EOF")
                self._stream_ended(stream)
        except CallFault as fault:
            self._call_fault(stream, fault)

    def _assemble(self, stream: Stream, data: bytes) -> None:
        body = stream.body
        if body:
            body += data
            if not stream.need:
                if len(body) < MESSAGE_PREFIX_BYTES:
                    return
                stream.need = self._length_of(stream, body, 0)
            if len(body) < stream.need:
                self._want(stream)
                return
            message = bytes(memoryview(body)[MESSAGE_PREFIX_BYTES : stream.need])
            compressed, data = body[0], bytes(memoryview(body)[stream.need :])
            stream.body = bytearray()
            stream.need = 0
            self._take_message(stream, compressed, message)
        position, size = 0, len(data)
        while size - position >= MESSAGE_PREFIX_BYTES:
            need = self._length_of(stream, data, position)
            end = position + need
            if end > size:
                stream.need = need
                break
            message = data[position + MESSAGE_PREFIX_BYTES : end]
            self._take_message(stream, data[position], message)
            position = end
        if position < size:
            stream.body += data[position:]
            if stream.need:
                self._want(stream)
        if not stream.need:
            self._renew(stream)

    def _length_of(self, stream: Stream, data: bytes | bytearray, position: int) -> int:
        """Length of a message with its prefix, if it may be taken at all."""
        compressed, length = _PREFIX.unpack_from(data, position)
        if compressed:
            if compressed != 1:
                text = f"grpc: received unexpected payload format {compressed}"
                raise CallFault(Status.INTERNAL, text)
            if not stream.compressed:
                text = "grpc: compressed flag set with identity or empty encoding"
                raise CallFault(Status.INTERNAL, text)
        if length > self.limits.message_bytes_max:
            raise too_large(length, self.limits.message_bytes_max)
        return int(length) + MESSAGE_PREFIX_BYTES

    def _take_message(self, stream: Stream, compressed: int, message: bytes) -> None:
        if compressed:
            message = decompress(message, self.limits.message_bytes_max)
        if stream.single:
            if stream.message is not None:
                raise CallFault(
                    Status.INTERNAL, "more than one message in a call that takes one"
                )
            stream.message = message
        elif stream.on_hold:
            if len(stream.held) >= self.limits.held_messages_max:
                raise CallFault(
                    Status.RESOURCE_EXHAUSTED,
                    f"more than {self.limits.held_messages_max} messages wait",
                )
            if stream.held is EMPTY:
                stream.held = deque()
            stream.held.append(message)
        else:
            self.pending.append(MessageReceived(stream.stream_id, message))

    def _want(self, stream: Stream) -> None:
        """See to it that an unfinished message can be sent to its end (rule 2)."""
        wanted = stream.need - len(stream.body) - stream.credit
        if wanted <= 0 or stream.wanted:
            return
        if self._wanting or wanted > self._unfinished_left:
            stream.wanted = wanted
            self._wanting[stream.stream_id] = stream
        else:
            self._reserve(stream, wanted)

    def _reserve(self, stream: Stream, count: int) -> None:
        self._unfinished_left -= count
        stream.reserved += count
        stream.credit += count
        self._out.append(frames.window_update(stream.stream_id, count))

    def _give_back(self, stream: Stream) -> None:
        """What an unfinished message had reserved is for others again."""
        self._unfinished_left += stream.reserved
        stream.reserved = 0
        if stream.wanted:
            stream.wanted = 0
            del self._wanting[stream.stream_id]
        wanting = self._wanting
        while wanting:
            first = next(iter(wanting.values()))
            if first.wanted > self._unfinished_left:
                return
            wanting.popitem(last=False)
            wanted, first.wanted = first.wanted, 0
            self._reserve(first, wanted)

    def _renew(self, stream: Stream) -> None:
        """No message of a stream is unfinished: renew its credit."""
        if stream.reserved or stream.wanted:
            self._give_back(stream)
        window = self.limits.stream_window_bytes
        if stream.credit <= window // 2 and not (stream.on_hold or stream.ended_there):
            count = window - stream.credit
            stream.credit = window
            self._out.append(frames.window_update(stream.stream_id, count))

    def _forget(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        super()._forget(stream_id)
        if stream is not None and (stream.reserved or stream.wanted):
            self._give_back(stream)

    def _renew_connection(self) -> None:
        """Renew the connection's credit (rule 1)."""
        received = self._received
        window = self.limits.connection_window_bytes
        if received > window:
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR,
                "more DATA than the connection had credit for (6.9.1)",
            )
        self._received = 0
        self._out.append(frames.window_update(0, received))


def too_large(size: int, limit: int) -> CallFault:
    """The refusal of a message in gRPC's own words."""
    text = f"grpc: received message larger than max ({size} vs. {limit})"
    return CallFault(Status.RESOURCE_EXHAUSTED, text)


def decompress(message: bytes, size_max: int) -> bytes:
    """A message out of its gzip form.

    Raises:
        CallFault: it is not gzip, or too large.
    """
    worker = zlib.decompressobj(_GZIP)
    try:
        found = worker.decompress(message, size_max + 1)
    except zlib.error as error:
        text = f"grpc: failed to decompress the received message: {error}"
        raise CallFault(Status.INTERNAL, text) from None
    if len(found) > size_max:
        raise CallFault(
            Status.RESOURCE_EXHAUSTED,
            "grpc: received message after decompression larger than max "
            f"({len(found)} vs. {size_max})",
        )
    if not worker.eof:
        text = "grpc: failed to decompress the received message: unexpected EOF"
        raise CallFault(Status.INTERNAL, text)
    return found
