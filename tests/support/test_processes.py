"""The process helpers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from revstore.proto import rpc_pb2
from tests.support.etcd import ETCD, NO_ETCD, start_etcd
from tests.support.server import start_server


def put(address: str, key: bytes) -> int:
    """Put a key over a real connection; the revision."""
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary("/etcdserverpb.KV/Put")
        request = rpc_pb2.PutRequest(key=key)
        answer = call(request.SerializeToString(), timeout=20, wait_for_ready=True)
    return rpc_pb2.PutResponse.FromString(answer).header.revision


@pytest.mark.slow
def test_a_server_starts_restarts_and_stops(tmp_path: Path) -> None:
    """A started server serves at its address; what it holds outlives both ends."""
    with start_server("lmdb", tmp_path / "data") as server:
        assert put(server.address, b"a") == 2
        server.restart()
        assert put(server.address, b"a") == 3
        server.restart(kill=True)
        assert put(server.address, b"a") == 4
        assert server.stop() == 0
        assert server.log_text.count("ready to serve") == 3


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A server that ends at its start fails the call with its log."""
    with pytest.raises(RuntimeError, match="no-such-backend"):
        start_server("no-such-backend", tmp_path / "data")


@pytest.mark.etcd
@pytest.mark.slow
@pytest.mark.skipif(ETCD is None, reason=NO_ETCD)
def test_an_etcd_starts_and_restarts(tmp_path: Path) -> None:
    """A started etcd serves at its address, before and after a restart."""
    with start_etcd(tmp_path / "data") as etcd:
        assert put(etcd.address, b"a") == 2
        etcd.restart(kill=True)
        assert put(etcd.address, b"a") == 3
