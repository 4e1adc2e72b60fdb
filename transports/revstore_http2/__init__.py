"""HTTP/2 and gRPC as a machine: bytes in, events and bytes out; no sockets, no loop."""

from __future__ import annotations

from revstore_http2.client import ClientConnection
from revstore_http2.codes import ErrorCode, Status
from revstore_http2.connection import Connection
from revstore_http2.limits import Limits
from revstore_http2.server import ServerConnection

__all__ = [
    "ClientConnection",
    "Connection",
    "ErrorCode",
    "Limits",
    "ServerConnection",
    "Status",
]
