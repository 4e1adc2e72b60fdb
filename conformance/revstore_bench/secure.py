"""TLS for the loads: a certificate made on the spot, and a socket that costs little.

Rules of this file:

1. Server and load share this machine, so one certificate for 127.0.0.1 and its own
   authority are enough; the client checks it, as clients do.
2. ``TlsSocket.receive`` returns everything that one read of the socket brought, however
   many records it was, so that a load wakes no more often than without TLS.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import msgspec

KEY_KIND = "-newkey ec -pkeyopt ec_paramgen_curve:P-256"
"""What today's certificates have; both servers get the same."""
RECORD_BYTES = 1 << 18


class Certificate(msgspec.Struct, frozen=True):
    """Files for a server, and the authority's for a client."""

    certificate: Path
    key: Path

    def client_context(self) -> ssl.SSLContext:
        """What a client needs to talk to a server with this certificate."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.set_alpn_protocols(["h2"])
        return context


def make_certificate(directory: Path) -> Certificate:
    """A fresh certificate for 127.0.0.1, its own authority.

    Raises:
        FileNotFoundError: there is no command ``openssl``.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise FileNotFoundError("TLS needs the openssl command; install openssl")
    directory.mkdir(parents=True, exist_ok=True)
    made = Certificate(directory / "server.crt", directory / "server.key")
    subprocess.run(
        [
            *f"{openssl} req -x509 {KEY_KIND} -nodes -days 2 -subj /CN=bench".split(),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(made.key), "-out", str(made.certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return made


def _connected(host: str, port: int, timeout_s: float) -> socket.socket:
    found = socket.create_connection((host, port), timeout_s)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


class PlainSocket:
    """A connection without TLS."""

    cipher = ""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._raw = _connected(host, port, timeout_s)
        self.fileno = self._raw.fileno
        self.sendall = self._raw.sendall
        self.recv = self._raw.recv
        self.close = self._raw.close


class TlsSocket:
    """The same with TLS: the records go through memory, not through ``ssl``'s socket,
    which gives one record at a time and hides what it has read ahead from ``epoll``."""

    def __init__(
        self, host: str, port: int, timeout_s: float, context: ssl.SSLContext
    ) -> None:
        self._raw = _connected(host, port, timeout_s)
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname=host)
        self.fileno = self._raw.fileno
        self.close = self._raw.close
        try:
            self._shake_hands()
        except BaseException:
            self._raw.close()
            raise

    @property
    def cipher(self) -> str:
        """What was agreed on, in words."""
        return f"{self._tls.version()} {(self._tls.cipher() or ('',))[0]}"

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._fill(RECORD_BYTES)
        self._flush()
        if self._tls.selected_alpn_protocol() != "h2":
            raise ConnectionError("the server does not offer HTTP/2 over TLS")

    def _flush(self) -> None:
        data = self._leaving.read()
        if data:
            self._raw.sendall(data)

    def _fill(self, count: int) -> bool:
        got = self._raw.recv(count)
        if not got:
            self._arrived.write_eof()
        else:
            self._arrived.write(got)
        return bool(got)

    def sendall(self, data: bytes) -> None:
        """Send everything. Raises: OSError."""
        self._tls.write(data)
        self._flush()

    def recv(self, count: int) -> bytes:
        """What is there, at least a byte; none at the end of the connection.

        It waits for the rest of a record of which only a part has come.
        Raises: OSError.
        """
        while True:
            if not self._fill(count):
                return b""
            pieces: list[bytes] = []
            try:
                while piece := self._tls.read(RECORD_BYTES):
                    pieces.append(piece)
            except ssl.SSLWantReadError:
                pass
            self._flush()
            if pieces:
                return b"".join(pieces)


Socket = PlainSocket | TlsSocket


def connect(
    host: str, port: int, timeout_s: float, context: ssl.SSLContext | None
) -> Socket:
    """A connection, with TLS where there is a context. Raises: OSError."""
    if context is None:
        return PlainSocket(host, port, timeout_s)
    return TlsSocket(host, port, timeout_s, context)
