"""What is particular to the transport "grpcio"."""

from __future__ import annotations

import grpc
import pytest

from revstore.errors import PluginError
from revstore.hookspecs import NoOptions, TransportPlugin
from revstore.interfaces.transport import (
    ServeOptions,
)
from revstore_grpcio.addresses import bind_target_of, parse_listen_url, target_of
from revstore_grpcio.client import _api_error
from revstore_grpcio.plugin import CAPABILITIES, make, revstore_register_transport
from revstore_grpcio.transport import GrpcioTransport, _channel_options

LOCAL = "http://127.0.0.1:0"


def test_ipv6_addresses() -> None:
    """A literal IPv6 address keeps its brackets."""
    address = parse_listen_url("http://[::1]:0")
    assert bind_target_of(address) == target_of(address) == "[::1]:0"
    assert address.bound_url(5) == "http://[::1]:5"


def test_options_reach_the_library() -> None:
    """Limits and keepalive rules are given to the library in its units."""
    options = dict(
        _channel_options(
            ServeOptions(
                urls=[LOCAL],
                request_bytes_max=1000,
                concurrent_streams_max=7,
                keepalive_min_time_s=5.0,
                keepalive_interval_s=7200.0,
                keepalive_timeout_s=20.0,
            )
        )
    )
    assert options["grpc.so_reuseport"] == 0
    assert options["grpc.max_concurrent_streams"] == 7
    assert options["grpc.keepalive_time_ms"] == 7_200_000
    assert options["grpc.keepalive_timeout_ms"] == 20_000
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == 5000
    unbounded = dict(_channel_options(ServeOptions(urls=[LOCAL])))
    assert "grpc.max_concurrent_streams" not in unbounded


def test_plugin_registers_and_makes() -> None:
    """The plugin describes itself without its driver and makes the transport."""
    found: list[TransportPlugin] = []
    revstore_register_transport(found.append)
    (plugin,) = found
    assert (plugin.name, plugin.extra) == ("grpcio", "grpc")
    assert plugin.capabilities is CAPABILITIES
    assert isinstance(plugin.factory(NoOptions()), GrpcioTransport)


def test_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without grpcio the error says what to install."""
    monkeypatch.delitem(__import__("sys").modules, "revstore_grpcio.transport")
    monkeypatch.setitem(__import__("sys").modules, "grpc", None)
    with pytest.raises(PluginError, match=r"revstore\[grpc\]"):
        make(NoOptions())


def test_a_connection_that_breaks_is_no_internal_error() -> None:
    """grpcio's "Internal error from Core" is its own word for a broken connection; a
    client that took it for the server's would not try another member."""
    from grpc.aio import AioRpcError, Metadata

    error = AioRpcError(
        grpc.StatusCode.INTERNAL, Metadata(), Metadata(), "Internal error from Core"
    )
    assert _api_error(error).code == grpc.StatusCode.UNAVAILABLE.value[0]
