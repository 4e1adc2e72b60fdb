"""The four kinds of plugins and what belongs to each."""

from __future__ import annotations

from typing import Literal

import msgspec

from revstore import hookspecs
from revstore.interfaces.backend import Backend, BackendCapabilities
from revstore.interfaces.consensus import Consensus, ConsensusCapabilities
from revstore.interfaces.transport import Transport, TransportCapabilities
from revstore.interfaces.wal import Wal, WalCapabilities

Kind = Literal["consensus", "transport", "wal", "backend"]

KINDS: tuple[Kind, ...] = ("consensus", "transport", "wal", "backend")
"""All kinds, in the order in which they are listed."""


class KindFacts(msgspec.Struct, frozen=True):
    """What a plugin of one kind is made of."""

    hook: str
    """Name of the hook that registers it."""
    descriptor: type[msgspec.Struct]
    capabilities: type[msgspec.Struct]
    product: type[object]
    """What the factory has to return an instance of."""


FACTS: dict[Kind, KindFacts] = {
    "consensus": KindFacts(
        "revstore_register_consensus",
        hookspecs.ConsensusPlugin,
        ConsensusCapabilities,
        Consensus,
    ),
    "transport": KindFacts(
        "revstore_register_transport",
        hookspecs.TransportPlugin,
        TransportCapabilities,
        Transport,
    ),
    "wal": KindFacts(
        "revstore_register_wal", hookspecs.WalPlugin, WalCapabilities, Wal
    ),
    "backend": KindFacts(
        "revstore_register_backend",
        hookspecs.BackendPlugin,
        BackendCapabilities,
        Backend,
    ),
}


def kind_of(plugin: hookspecs.Plugin) -> Kind:
    """The kind of a descriptor. Raises: nothing."""
    if isinstance(plugin, hookspecs.BackendPlugin):
        return "backend"
    if isinstance(plugin, hookspecs.WalPlugin):
        return "wal"
    if isinstance(plugin, hookspecs.ConsensusPlugin):
        return "consensus"
    return "transport"
