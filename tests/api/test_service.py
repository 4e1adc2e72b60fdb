"""The table of all services."""

from __future__ import annotations

import pytest

from revstore.api.errors import Code
from revstore.api.inprocess import invoke, open_stream
from revstore.api.service import Services, build_table
from revstore.errors import ApiError, PluginError
from revstore.interfaces.transport import Method, MethodKind
from revstore.proto import rpc_pb2
from tests.api.member import FakeMember


def test_table_has_every_method_of_the_api(member: FakeMember) -> None:
    """Each method of etcd's rpc.proto is there, with the right kind."""
    for service in rpc_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            assert path in member.services, path
            found = member.services[path]
            assert (found.kind is MethodKind.UNARY) == (
                not method.server_streaming and not method.client_streaming
            )
            assert (found.kind is MethodKind.BIDI_STREAM) == method.client_streaming


def test_rpc_proto_has_services() -> None:
    """The check above checks something."""
    names = set(rpc_pb2.DESCRIPTOR.services_by_name)
    assert {"KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth"} <= names


def test_extra_methods(member: FakeMember) -> None:
    """Another service can be added and gets the same rules; a path twice is an error."""

    def echo(call: object, message: bytes) -> None:
        call.reply(message)  # type: ignore[attr-defined] # a Call

    extra = Method(path="/x.Y/Echo", kind=MethodKind.UNARY, unary=echo)
    table = build_table(member, [extra])
    assert invoke(table, "/x.Y/Echo", b"hi").result() == b"hi"
    member.stopped = True
    with pytest.raises(ApiError, match="server stopped"):
        invoke(table, "/x.Y/Echo", b"hi").result()
    with pytest.raises(PluginError, match=r"x\.Y/Echo"):
        Services(member, [extra, extra])


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etcdserverpb.KV/Get", "unknown method Get for service etcdserverpb.KV"),
        ("/etcd.KV/Range", "unknown service etcd.KV"),
        ("nonsense", "malformed method name: 'nonsense'"),
    ],
)
def test_unknown_paths(member: FakeMember, path: str, text: str) -> None:
    """Unknown paths are UNIMPLEMENTED in the words of grpc-go."""
    expected = ApiError(Code.UNIMPLEMENTED, text)
    assert invoke(member.services, path, b"").outcome == expected
    assert open_stream(member.services, path).error == expected
