"""Servers for the sessions of clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.pair import Pair, serving

TRANSPORTS = ("grpc", "grpcio")


@pytest.fixture(scope="module", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport that speaks gRPC."""
    return str(request.param)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[Pair]:
    """A revstore on LMDB and an etcd with the same history."""
    with serving("lmdb", tmp_path_factory.mktemp("pair"), transport) as found:
        yield found


@pytest.fixture
def fresh_pair(
    tmp_path_factory: pytest.TempPathFactory, transport: str
) -> Iterator[Pair]:
    """As ``pair``, for one test alone."""
    with serving("lmdb", tmp_path_factory.mktemp("fresh"), transport) as found:
        yield found
