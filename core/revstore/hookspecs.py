"""The hooks by which a distribution adds plugins to revstore.

A distribution declares an entry point in the group ``revstore``: its name is the name
of the plugin, its value a module with hook implementations. The module must not
import its driver (lmdb, rocksdict, grpcio, ...); the factory does that, so that
listing plugins costs nothing and a missing driver is reported with the extra that
installs it.

Each hook is called once, after the module is imported, with a function that takes one
frozen descriptor::

    from revstore.hookspecs import BackendPlugin, hookimpl

    @hookimpl
    def revstore_register_backend(register):
        register(BackendPlugin(name="mine", summary="...", ...))

pluggy is used for this and for nothing on the way of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pluggy

from revstore.interfaces.backend import Backend, BackendCapabilities
from revstore.interfaces.consensus import (
    Consensus,
    ConsensusCapabilities,
    ConsensusStart,
)
from revstore.interfaces.transport import Transport, TransportCapabilities
from revstore.interfaces.wal import Wal, WalCapabilities

GROUP = "revstore"
"""Entry point group, pluggy project name and prefix of every hook."""

API_VERSION = 1
"""Version of the contracts in ``revstore.interfaces``; a plugin names the one it obeys."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options model of a plugin without options."""


class BackendPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of MVCC backend."""

    name: str
    summary: str
    """One sentence for ``revstore plugins list``."""
    capabilities: BackendCapabilities
    factory: Callable[[Path, Sequence[str], Any], Backend]
    """``factory(directory, keyspaces, options)``; the directory exists."""
    options: type[msgspec.Struct] = NoOptions
    """Frozen struct with a default for every field and ``forbid_unknown_fields``."""
    extra: str = ""
    """The extra of the distribution that installs the driver."""
    api_version: int = API_VERSION


class WalPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of write-ahead log."""

    name: str
    summary: str
    capabilities: WalCapabilities
    factory: Callable[[Path, bytes, bool, Any], Wal]
    """``factory(directory, metadata, threaded, options)``; see ``Wal``."""
    options: type[msgspec.Struct] = NoOptions
    extra: str = ""
    api_version: int = API_VERSION


class ConsensusPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of consensus."""

    name: str
    summary: str
    capabilities: ConsensusCapabilities
    factory: Callable[[ConsensusStart, Any], Consensus]
    options: type[msgspec.Struct] = NoOptions
    extra: str = ""
    api_version: int = API_VERSION


class TransportPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of transport."""

    name: str
    summary: str
    capabilities: TransportCapabilities
    factory: Callable[[Any], Transport]
    options: type[msgspec.Struct] = NoOptions
    extra: str = ""
    api_version: int = API_VERSION


Plugin = BackendPlugin | WalPlugin | ConsensusPlugin | TransportPlugin


@hookspec
def revstore_register_backend(register: Callable[[BackendPlugin], None]) -> None:
    """Register MVCC backends by calling ``register`` once for each."""


@hookspec
def revstore_register_wal(register: Callable[[WalPlugin], None]) -> None:
    """Register write-ahead logs by calling ``register`` once for each."""


@hookspec
def revstore_register_consensus(register: Callable[[ConsensusPlugin], None]) -> None:
    """Register consensus plugins by calling ``register`` once for each."""


@hookspec
def revstore_register_transport(register: Callable[[TransportPlugin], None]) -> None:
    """Register transports by calling ``register`` once for each."""
