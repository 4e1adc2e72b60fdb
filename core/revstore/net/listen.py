"""Listening sockets for a protocol, on every URL or on none.

``asyncio.Server`` is not used: when it is closed while a connection is being accepted,
that one is lost track of and never closed (``Server._attach`` of Python 3.11), and it
keeps quiet about a failed TLS handshake, which an operator wants to read about.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable, Sequence

from revstore import logs
from revstore.errors import ConfigError
from revstore.interfaces.peers import PeerOptions
from revstore.interfaces.transport import ServeOptions, TlsOptions
from revstore.net.addresses import Address, numeric_host, unix_socket_in_use

_log = logs.get(__name__)

BACKLOG = 512
ACCEPT_MAX = 64
"""Connections accepted in one turn of the loop."""
ACCEPT_RETRY_S = 1.0
"""Pause after the process ran out of file descriptors."""
HANDSHAKE_TIMEOUT_S = 10.0
CLOSE_S = 1.0
"""How long TLS may take to begin, and to end."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


ParseUrl = Callable[[str], Address]
"""Reads a URL to listen on. Raises: ConfigError."""


def client_addresses(
    options: ServeOptions, parse: ParseUrl
) -> tuple[list[Address], TlsOptions | None]:
    """Where to serve clients, and the TLS that an address of those needs.

    Raises:
        ConfigError: there is no address, or one for TLS without certificates.
    """
    if not options.urls:
        raise ConfigError("no client URL to listen on; name at least one")
    addresses = [parse(url) for url in options.urls]
    secret = next((address for address in addresses if address.tls), None)
    if secret is None:
        return addresses, None
    if options.tls is None:
        raise ConfigError(
            f"listen URL {secret.url!r} needs a certificate and a key; name both files"
        )
    return addresses, options.tls


def peer_addresses(options: PeerOptions, parse: ParseUrl) -> list[Address]:
    """Where to take the calls of other members.

    Raises:
        ConfigError: there is no address, or one for TLS without certificates.
    """
    if not options.urls:
        raise ConfigError("no peer URL to listen on; name at least one")
    addresses = [parse(url) for url in options.urls]
    secret = next((address for address in addresses if address.tls), None)
    if secret is not None and options.tls is None:
        raise ConfigError(
            f"peer URL {secret.url!r} needs a certificate, a key and a trusted CA; "
            "name the three files"
        )
    return addresses


class Listener:
    """The sockets of one server."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._paths: list[str] = []
        self._arrivals: dict[asyncio.Task[None], socket.socket] = {}
        self._handshakes: set[asyncio.Task[None]] = set()
        """Those of the arrivals that may take long."""
        self._timers: set[asyncio.TimerHandle] = set()
        self._factory: Callable[[], asyncio.Protocol] = asyncio.Protocol

    async def open(
        self,
        addresses: Sequence[Address],
        factory: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
    ) -> None:
        """Listen on each address.

        Raises:
            ConfigError: one cannot be listened on; none is open then.
        """
        self._factory = factory
        try:
            for address in addresses:
                bound = _bind_path(address) if address.path else _bind(address)
                self._sockets.append(bound)
                if address.path:
                    self._paths.append(address.path)
                    self.urls.append(address.url)
                else:
                    self.urls.append(address.bound_url(bound.getsockname()[1]))
                try:
                    bound.listen(BACKLOG)
                except OSError as error:
                    raise _cannot_listen(address, error) from error
                self._watch(bound, context if address.tls else None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Listen no more; connections stay. ``settle`` next. Raises: nothing."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for bound in self._sockets:
            self._loop.remove_reader(bound.fileno())
            bound.close()
        self._sockets.clear()
        # The others are through in a moment. One whose protocol has its connection
        # already would never hear of its end if it were cancelled (uvloop).
        for task in self._handshakes:
            task.cancel()
        for path in self._paths:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._paths.clear()

    async def settle(self) -> None:
        """Wait until nothing is being accepted any more. Raises: nothing."""
        if self._arrivals:
            await asyncio.wait(tuple(self._arrivals))

    def _watch(self, bound: socket.socket, context: ssl.SSLContext | None) -> None:
        self._loop.add_reader(bound.fileno(), self._accept, bound, context)

    def _accept(self, bound: socket.socket, context: ssl.SSLContext | None) -> None:
        for _ in range(ACCEPT_MAX):
            try:
                found, _address = bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("cannot accept connections", reason=str(error))
                if error.errno in _EXHAUSTED:
                    self._pause(bound, context)
                return
            found.setblocking(False)
            task = self._loop.create_task(self._take(found, context))
            self._arrivals[task] = found
            if context is not None:
                self._handshakes.add(task)
            task.add_done_callback(self._taken)

    async def _take(self, found: socket.socket, context: ssl.SSLContext | None) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._factory,
                found,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if context else None,
                ssl_shutdown_timeout=CLOSE_S if context else None,
            )
        except (OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            _log.warn("connection refused", peer=_name_of(found), reason=reason)
            found.close()

    def _taken(self, task: asyncio.Task[None]) -> None:
        found = self._arrivals.pop(task)
        self._handshakes.discard(task)
        if task.cancelled():
            found.close()

    def _pause(self, bound: socket.socket, context: ssl.SSLContext | None) -> None:
        self._loop.remove_reader(bound.fileno())

        def resume() -> None:
            self._timers.discard(timer)
            self._watch(bound, context)

        timer = self._loop.call_later(ACCEPT_RETRY_S, resume)
        self._timers.add(timer)


def _name_of(found: socket.socket) -> str:
    try:
        return str(found.getpeername())
    except OSError:
        return "unknown"


def _bind(address: Address) -> socket.socket:
    host = numeric_host(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, for asyncio turns Nagle's delay off only where it is.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setblocking(False)
        # A restart must not wait for old connections; it shares no live port.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, address.port))
    except OSError as error:
        bound.close()
        raise _cannot_listen(address, error) from error
    return bound


def _bind_path(address: Address) -> socket.socket:
    path = address.path
    if unix_socket_in_use(path):
        raise ConfigError(f"cannot listen on {address.url!r}: another server answers")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)
        bound.bind(path)
    except OSError as error:
        bound.close()
        raise _cannot_listen(address, error) from error
    return bound


def _cannot_listen(address: Address, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(
        f"cannot listen on {address.url!r}: {reason}; the address is in use or not of "
        "this host"
    )
