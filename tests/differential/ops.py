"""The operations of a differential run.

An operation holds its whole request, so that a recorded list of operations runs again
without the generator; numbers of leases that a server chooses do not occur in it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf.message import Message
from google.protobuf.text_format import MessageToString

from revstore.proto import rpc_pb2 as rpc

UNARY: dict[str, tuple[str, Any, Any]] = {
    name: (f"/etcdserverpb.{service}/{name}", request, response)
    for service, name, request, response in (
        ("KV", "Range", rpc.RangeRequest, rpc.RangeResponse),
        ("KV", "Put", rpc.PutRequest, rpc.PutResponse),
        ("KV", "DeleteRange", rpc.DeleteRangeRequest, rpc.DeleteRangeResponse),
        ("KV", "Txn", rpc.TxnRequest, rpc.TxnResponse),
        ("KV", "Compact", rpc.CompactionRequest, rpc.CompactionResponse),
        ("Lease", "LeaseGrant", rpc.LeaseGrantRequest, rpc.LeaseGrantResponse),
        ("Lease", "LeaseRevoke", rpc.LeaseRevokeRequest, rpc.LeaseRevokeResponse),
        (
            "Lease",
            "LeaseTimeToLive",
            rpc.LeaseTimeToLiveRequest,
            rpc.LeaseTimeToLiveResponse,
        ),
        ("Lease", "LeaseLeases", rpc.LeaseLeasesRequest, rpc.LeaseLeasesResponse),
        ("Maintenance", "HashKV", rpc.HashKVRequest, rpc.HashKVResponse),
        ("Maintenance", "Alarm", rpc.AlarmRequest, rpc.AlarmResponse),
    )
}
"""Unary methods by name: path, request type, response type."""

TXN_OPS_MAX = 12
"""What both servers get as --max-txn-ops."""

READS = frozenset({"Range", "LeaseTimeToLive", "LeaseLeases", "HashKV"})
"""Methods whose calls may overlap: they change nothing."""


class Unary(msgspec.Struct, frozen=True):
    """One call of a unary method."""

    name: str
    request: Message

    def __str__(self) -> str:
        return f"{self.name} {{ {line(self.request)} }}"


class RangeStream(msgspec.Struct, frozen=True):
    """The streamed range, which stands beside etcd's plain one."""

    request: Message

    def __str__(self) -> str:
        return f"RangeStream {{ {line(self.request)} }}"


class KeepAlive(msgspec.Struct, frozen=True):
    """One keep-alive stream with these leases, one after the other."""

    leases: tuple[int, ...]

    def __str__(self) -> str:
        return f"KeepAlive {self.leases}"


class ChosenLease(msgspec.Struct, frozen=True):
    """A lease whose number the server chooses: granted, asked for, revoked."""

    ttl: int

    def __str__(self) -> str:
        return f"ChosenLease ttl {self.ttl}"


class Watch(msgspec.Struct, frozen=True):
    """One request on one of the watch streams."""

    stream: int
    request: rpc.WatchRequest

    def __str__(self) -> str:
        return f"Watch stream {self.stream} {{ {line(self.request)} }}"


class NegativeWatch(msgspec.Struct, frozen=True):
    """A watch from a negative revision, on a stream of its own."""

    request: rpc.WatchRequest

    def __str__(self) -> str:
        return f"NegativeWatch {{ {line(self.request)} }}"


class CloseWatches(msgspec.Struct, frozen=True):
    """The end of one watch stream, by the client."""

    stream: int

    def __str__(self) -> str:
        return f"CloseWatches stream {self.stream}"


class Restart(msgspec.Struct, frozen=True):
    """Both servers end, by SIGTERM or SIGKILL, and start again."""

    kill: bool

    def __str__(self) -> str:
        return "Restart " + ("SIGKILL" if self.kill else "SIGTERM")


class CompareHistory(msgspec.Struct, frozen=True):
    """HashKV at every revision that both can still read."""

    def __str__(self) -> str:
        return "CompareHistory"


Op = (
    Unary
    | RangeStream
    | KeepAlive
    | ChosenLease
    | Watch
    | NegativeWatch
    | CloseWatches
    | Restart
    | CompareHistory
)


def line(message: Message, length_max: int = 600) -> str:
    """A message as one line, long values cut."""
    text = MessageToString(message, as_one_line=True)
    return text if len(text) <= length_max else text[:length_max] + "..."
