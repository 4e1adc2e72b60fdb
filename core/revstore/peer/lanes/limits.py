"""Bounds of the links between members over gRPC."""

from __future__ import annotations

PEER_PIECE_BYTES = 256 * 1024
"""A message between members that is longer travels in parts of this size."""

PEER_BATCH_BYTES_TARGET = 64 * 1024
"""Messages that wait go into one frame until it has this many bytes."""

PEER_BATCH_MESSAGES_MAX = 1024
"""Messages in one frame, however short they are."""

PEER_FRAME_BYTES_MAX = 1024 * 1024
"""Longest frame taken from a member. Invariant: a full batch fits."""

PEER_META_BYTES_MAX = 64 * 1024
"""Longest description of a stream; it travels in one frame."""

PEER_CHUNK_COST_BYTES = 64
"""What a stream's chunk costs in credit besides its length."""

PEER_STREAMS_MAX = 16
"""Streams that one member may have open to another."""

PEER_CALLS_MAX = 64
"""Calls on one connection that a member takes: a lane, its streams, and spare."""

PEER_HANDSHAKE_TIMEOUT_S = 10.0
"""A connection that has not said by then that it is HTTP/2 is closed."""

PEER_KEEPALIVE_S = 10.0
"""How long a caller may be silent before it is asked whether it is still there."""

PEER_END_GRACE_S = 1.0
"""How long a call whose caller says no more may stay; and how long closing waits."""

PEER_REASON_CHARS_MAX = 1000
"""Longest reason that travels as the status of a call, which has little room."""

_BIN_HEADER_BYTES = 5
if (
    PEER_BATCH_BYTES_TARGET
    + PEER_PIECE_BYTES
    + _BIN_HEADER_BYTES * (PEER_BATCH_MESSAGES_MAX + 4)
    > PEER_FRAME_BYTES_MAX
):
    raise AssertionError("a batch may grow longer than a member takes")
