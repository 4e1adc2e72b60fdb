"""Bounds of the shell; those of a connection are ``revstore_http2.limits.Limits``."""

from __future__ import annotations

STREAM_QUEUE_BYTES_MAX = 1024 * 1024
"""Bytes that may wait in one stream before it is not writable (T-03)."""

STREAM_QUEUE_BYTES_FLOOR = 64 * 1024
"""What every stream may let wait, however much waits in others."""

STREAM_QUEUE_BYTES_RESUME = STREAM_QUEUE_BYTES_FLOOR // 2
"""A stream that was not writable is writable again below this."""

STREAMS_QUEUE_BYTES_MAX = 64 * 1024 * 1024
"""Bytes that may wait in all streams together before each gets only its floor."""

OUTPUT_BYTES_MAX = 4 * 1024 * 1024
"""A client whose socket takes nothing is not read while more than this waits for it."""

WRITE_HIGH_WATER = 256 * 1024
"""Bytes that the socket layer may hold before the machine keeps data back."""

CLOSE_S = 1.0
"""How long closing waits for a connection to take its last bytes."""

DEADLINE_GRAIN_S = 0.01
"""Deadlines that pass within this of one another are looked at together."""

HTTP_HEAD_BYTES_MAX = 16 * 1024
HTTP_BODY_BYTES_MAX = 1024 * 1024
"""Longest head and body of a request over HTTP/1.1."""

HTTP_IDLE_S = 30.0
"""An HTTP/1.1 connection without a complete request for so long is closed."""

INBOX_BYTES_MAX = 1024 * 1024
"""A client's stream with more than this that nobody has taken is held back."""

MESSAGE_COST_BYTES = 256
"""What each message that waits counts besides its own length."""

HEADER_BLOCK_BYTES_MAX = 2 * 1024 * 1024
"""A longer block of headers ends its connection; one that is only too large for a call
is read to its end, so that it costs nothing but the call."""
