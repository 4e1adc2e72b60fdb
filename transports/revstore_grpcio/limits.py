"""Bounds of the grpcio transport."""

from __future__ import annotations

STREAM_QUEUE_BYTES_MAX = 1024 * 1024
"""Bytes that may wait in one stream before it is not writable (T-03)."""

STREAM_QUEUE_BYTES_RESUME = STREAM_QUEUE_BYTES_MAX // 2
"""A stream that was not writable is writable again below this."""

STREAMS_QUEUE_BYTES_MAX = 64 * 1024 * 1024
"""Bytes that may wait in all streams together before each gets only its floor."""

STREAM_QUEUE_BYTES_FLOOR = 64 * 1024
"""What every stream may let wait, however much waits in others."""

STREAM_MESSAGE_COST_BYTES = 256
"""What each waiting message counts besides its own length."""

LIBRARY_RECEIVE_FACTOR = 4
"""The library refuses messages above this multiple of the real limit.

Between the two the transport itself refuses, in the words clients know from etcd;
above, the library's own words are what the client sees, and memory stays bounded.
"""
