"""Bounds of the framing and of the transport; docs/design/tcp-framing.md names them."""

from __future__ import annotations

RECORD_PAYLOAD_MAX = 64 * 1024
"""Longest payload of one record; longer ones are cut into several."""

FRAME_BODY_TARGET = 64 * 1024
"""A frame is closed when its records reach this."""

FRAME_BODY_MAX = 256 * 1024
"""Longest frame taken. Invariant: a target's worth and one more record fit."""

STREAM_WINDOW = 256 * 1024
"""Credit that each direction of a stream begins with."""

MESSAGE_COST = 64
"""What a stream's message costs in credit besides its length."""

STREAM_QUEUE_BYTES_MAX = 1024 * 1024
"""Bytes that may wait in one stream before it is not writable (T-03).

It is writable again at half of this.
"""

OUTPUT_BYTES_MAX = 4 * 1024 * 1024
"""A connection with more output than this that its client does not take is not read."""

HEAD_BYTES_MAX = 32 * 1024
"""Longest path and metadata of a call, together."""

PARTIAL_REQUESTS_MAX = 16
"""Requests of the largest size whose parts one connection may have in hand."""

WRITE_HIGH_WATER = 256 * 1024
"""Bytes that the socket layer may hold before pieces are kept back."""

HANDSHAKE_TIMEOUT_S = 10.0
"""A connection that has not said hello by then is closed."""

PEER_STREAMS_MAX = 16
"""Streams that one member may have open to another."""

CLOSE_S = 1.0
"""How long closing waits for a connection to take its last bytes."""

PING_STRIKES_MAX = 2
"""Pings that may come sooner than agreed before the connection is ended."""

if FRAME_BODY_TARGET + RECORD_PAYLOAD_MAX + 10 > FRAME_BODY_MAX:
    raise AssertionError("a frame may grow longer than a reader takes")
