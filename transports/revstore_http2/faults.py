"""What the inside of a connection raises; none of it leaves the package."""

from __future__ import annotations

from revstore_http2.codes import ErrorCode


class ConnectionFault(Exception):  # noqa: N818 - the field's own word
    """The connection cannot go on (RFC 9113, section 5.4.1)."""

    def __init__(self, code: ErrorCode, reason: str, hostile: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.hostile = hostile


class StreamFault(Exception):  # noqa: N818 - the field's own word
    """One stream cannot go on (RFC 9113, section 5.4.2)."""

    def __init__(self, stream_id: int, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.stream_id = stream_id
        self.code = code
        self.reason = reason


class CallFault(Exception):  # noqa: N818 - the field's own word
    """One call must end with a gRPC status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
