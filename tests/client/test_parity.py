"""The client has the methods of the embedded store, with the same arguments."""

from __future__ import annotations

import inspect

import pytest

from revstore.aio import AsyncStore
from revstore.client.lease import AsyncLease
from revstore.client.store import AsyncClient
from revstore.client.sync import Client, Lease, Watcher
from revstore.client.watch import AsyncWatcher
from revstore.embedded.lease import Lease as EmbeddedLease
from revstore.embedded.store import EmbeddedStore
from revstore.embedded.watch import Watcher as EmbeddedWatcher

ONLY_EMBEDDED: dict[type, set[str]] = {
    EmbeddedStore: {"compact_revision", "replica", "sync"},
    AsyncStore: set(),
}
"""What only a store in this process can have."""
HUB = {"send", "writable"}
"""What the embedded watcher has for its hub."""


def public(kind: type) -> set[str]:
    """The public names of a class."""
    return {name for name in vars(kind) if not name.startswith("_")}


def parameters(kind: type, name: str) -> dict[str, tuple[object, object]]:
    """Kind and default of each parameter of a method."""
    found = inspect.signature(getattr(kind, name)).parameters.values()
    return {one.name: (one.kind, one.default) for one in found}


@pytest.mark.parametrize(
    ("embedded", "client"),
    [(EmbeddedStore, Client), (AsyncStore, AsyncClient), (EmbeddedLease, Lease)],
)
def test_stores_have_the_same_methods(embedded: type, client: type) -> None:
    """What the client has besides is optional."""
    names = public(embedded) - ONLY_EMBEDDED.get(embedded, set())
    assert names <= public(client), names - public(client)
    for name in names:
        if not inspect.isfunction(getattr(embedded, name)):
            continue
        ours, theirs = parameters(client, name), parameters(embedded, name)
        assert {one: ours.get(one) for one in theirs} == theirs, name
        more = ours.keys() - theirs.keys()
        assert all(ours[one][1] is not inspect.Parameter.empty for one in more), name


@pytest.mark.parametrize(
    ("embedded", "client"), [(EmbeddedWatcher, Watcher), (AsyncStore, AsyncClient)]
)
def test_watchers_have_the_same_methods(embedded: type, client: type) -> None:
    """An embedded watcher is replaced by one of the client."""
    missing = public(embedded) - public(client) - HUB
    assert not missing


@pytest.mark.parametrize(
    ("waiting", "plain"),
    [(AsyncClient, Client), (AsyncLease, Lease), (AsyncWatcher, Watcher)],
)
def test_the_synchronous_client_has_it_all(waiting: type, plain: type) -> None:
    """Each method of the asynchronous client has a twin that takes the same."""
    inner = {
        "alive_at",
        "call_at",
        "created",
        "deliver",
        "end",
        "keeper",
        "over",
        "started",
        "tell_lost",
        "use_endpoints",
    }
    missing = public(waiting) - public(plain) - inner
    assert not missing
    for name in public(plain) & public(waiting) - {"with_options"}:
        if inspect.isfunction(getattr(plain, name)):
            ours, theirs = parameters(plain, name), parameters(waiting, name)
            assert {one: ours.get(one) for one in theirs} == theirs, name
