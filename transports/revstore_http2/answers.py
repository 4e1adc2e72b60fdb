"""The answering half of a server: heads, messages and ends of its answers.

Rules of this file:

1. The whole answer to a call that was taken whole is put into the output by ``reply``
   alone, from constant pieces; any other answer takes the general way. The two give the
   same bytes.
2. An answer that ends before the client's side did is followed by RST_STREAM with
   NO_ERROR, so that the client stops sending (RFC 9113, section 8.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from revstore_http2 import frames
from revstore_http2.codes import MESSAGE_PREFIX_BYTES, ErrorCode, Setting
from revstore_http2.connection import Connection
from revstore_http2.heads import Refusal
from revstore_http2.limits import Limits
from revstore_http2.metadata import encode_pairs
from revstore_http2.responses import (
    STATUS_OK,
    ResponseBlocks,
    only_fields,
    refusal_fields,
    status_fields,
)
from revstore_http2.stream import Stream


class Trailers(msgspec.Struct, frozen=True):
    """How a call ends."""

    code: int
    text: str = ""
    details: bytes = b""
    fields: tuple[tuple[bytes, bytes], ...] = ()


_OK = Trailers(0)
_END_OF_BODY = object()
"""How an answer ends that is not gRPC."""


class Answering(Connection):
    """What a server says."""

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits, now)
        self._blocks = ResponseBlocks()
        self._draining = False
        self._quick_max = 0

    # What the shell does.

    def reply(self, stream_id: int, message: bytes) -> None:
        """Answer a call with one message and OK: the whole of a unary answer.

        Raises: nothing.
        """
        length = len(message)
        size = length + MESSAGE_PREFIX_BYTES
        streams = self._streams
        if (
            size <= self._quick_max
            and size <= self._send_window
            and streams.get(stream_id, self) is None
        ):
            del streams[stream_id]
            self._send_window -= size
            self._sent_mark = True
            blocks = self._blocks
            self._out += (
                blocks.pack_reply(
                    blocks.head_frame,
                    stream_id,
                    blocks.head_block,
                    size << 8,
                    0,
                    stream_id,
                    0,
                    length,
                ),
                message,
                blocks.pack_end(blocks.ok_frame, stream_id, blocks.ok_block),
            )
            return
        self.send(stream_id, message)
        self.finish(stream_id)

    def send_head(
        self, stream_id: int, pairs: Iterable[tuple[str, str | bytes]] = ()
    ) -> None:
        """Send the response's head with metadata before the first message.

        Without it, ``send`` sends one without metadata. A second one is not sent.

        Raises:
            UsageError: a name or a value of the metadata cannot be sent.
        """
        fields = encode_pairs(pairs)
        stream = self._find(stream_id)
        if stream is not None and stream.ending is None and not stream.head_sent:
            self._write_head(stream, fields)

    def finish(
        self, stream_id: int, pairs: Iterable[tuple[str, str | bytes]] = ()
    ) -> None:
        """End a call with OK after what was sent.

        Raises:
            UsageError: a name or a value of the metadata cannot be sent.
        """
        ending = Trailers(0, fields=tuple(encode_pairs(pairs))) if pairs else _OK
        stream = self._find(stream_id)
        if stream is not None and stream.ending is None:
            self._end(stream, ending)

    def fail(
        self,
        stream_id: int,
        code: int,
        text: str,
        details: bytes = b"",
        pairs: Iterable[tuple[str, str | bytes]] = (),
    ) -> None:
        """End a call with an error after what was sent.

        Raises:
            UsageError: a name or a value of the metadata cannot be sent.
        """
        fields = tuple(encode_pairs(pairs)) if pairs else ()
        stream = self._find(stream_id)
        if stream is not None and stream.ending is None:
            self._end(stream, Trailers(code, text, details, fields))

    def respond(
        self,
        stream_id: int,
        status: int,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> None:
        """Answer an ``HttpRequest``; content-length is added. Raises: nothing."""
        stream = self._find(stream_id)
        if stream is None or stream.ending is not None:
            return
        fields = [(b":status", b"%d" % status)]
        for name, value in headers:
            fields.append((name.lower().encode("latin-1"), value.encode("latin-1")))
        fields.append((b"content-length", b"%d" % len(body)))
        stream.head_sent = True
        self._write_block(stream_id, self._blocks.plain(fields), end=False)
        if body:
            self._enqueue(stream, (body,), len(body))
        if stream_id in self._streams:
            self._end(stream, _END_OF_BODY)

    # The inside.

    def _send_head(self, stream: Stream) -> None:
        self._write_head(stream, [])

    def _write_head(self, stream: Stream, fields: list[tuple[bytes, bytes]]) -> None:
        stream.head_sent = True
        self._write_block(stream.stream_id, self._blocks.head(fields), end=False)

    def _send_end(self, stream: Stream) -> None:
        ending: Any = stream.ending
        stream_id = stream.stream_id
        blocks = self._blocks
        if ending is _END_OF_BODY:
            self._out.append(frames.pack_header(0, 1, stream_id))
        elif ending is _OK and stream.head_sent:
            self._write_block(stream_id, blocks.ok(), end=True)
            if not self._quick_max:
                self._set_quick()
        else:
            fields = [] if stream.head_sent else only_fields(200)
            if ending.code:
                fields += status_fields(ending.code, ending.text, ending.details)
            else:
                fields.append(STATUS_OK)
            fields += ending.fields
            self._write_block(stream_id, blocks.plain(fields), end=True)
        stream.ended_here = True
        if not stream.ended_there:
            self._write_reset(stream_id, ErrorCode.NO_ERROR)
        self._forget(stream_id)

    def _write_block(self, stream_id: int, block: bytes, end: bool) -> None:
        self._sent_mark = True
        self._out.append(
            frames.header_block(stream_id, block, end, self._peer_frame_max)
        )

    def _set_quick(self) -> None:
        # While draining, each end of a call must be looked at.
        if self._blocks.quick and not self._draining:
            super()._set_quick()
        else:
            self._quick_max = 0

    def _setting_changed(self, key: int, value: int) -> None:
        if key == Setting.HEADER_TABLE_SIZE:
            self._blocks.set_table_size(value)

    def _refuse_head(self, stream_id: int, refusal: Refusal, end: bool) -> None:
        """Answer a request by its head alone."""
        self._write_block(stream_id, self._blocks.plain(refusal_fields(refusal)), True)
        if not end:
            self._write_reset(stream_id, ErrorCode.NO_ERROR)
