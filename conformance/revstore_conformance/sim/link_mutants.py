"""Faulty variants of what members say to one another: bytes, links, calls."""

from __future__ import annotations

from collections.abc import Sequence

from revstore.apply.cluster import Cluster
from revstore.interfaces.consensus import Message
from revstore.node.forwarding import Forwarding
from revstore.node.peering import Peering
from revstore.peer import codec
from revstore.peer.calls import Answered
from revstore.proto import raft_pb2, rpc_pb2
from revstore.types import Entry
from revstore_conformance.sim.mutant import Mutant, Patch
from revstore_tcp import framing


def _encoder_mixes_entries() -> Sequence[Patch]:
    def entries(self: codec.MessageEncoder, found: Sequence[Entry]) -> bytes:
        known = self._first
        if known is None or (known.index, self._count) != (found[0].index, len(found)):
            self._first, self._count = found[0], len(found)
            self._blob = codec.encode_entries(found)
        return self._blob

    return [(codec.MessageEncoder, "_entries", entries)]


def _hints_are_left_out() -> Sequence[Patch]:
    original = codec.MessageEncoder.encode

    def encode(self: codec.MessageEncoder, message: Message) -> bytes:
        data = original(self, message)
        if message.reject_hint:
            parsed = raft_pb2.Message.FromString(data)
            parsed.rejectHint = 0
            return bytes(parsed.SerializeToString())
        return data

    return [(codec.MessageEncoder, "encode", encode)]


def _frames_unchecked() -> Sequence[Patch]:
    return [(framing, "crc32c", lambda body: 0)]


def _leaving_forgotten() -> Sequence[Patch]:
    return [(Cluster, "leaving", lambda self: [])]


def _nobody_introduces_himself() -> Sequence[Patch]:
    return [(Peering, "introduce", lambda self, member, now: None)]


def _followers_renew() -> Sequence[Patch]:
    original = Forwarding.ask

    def ask(self: Forwarding, name: str, body: bytes, answered: Answered) -> None:
        if name != "LeaseKeepAlive" or self._replica.is_leader:
            original(self, name, body, answered)
            return
        lease = rpc_pb2.LeaseKeepAliveRequest.FromString(body).ID
        known = self._replica.lessor.time_to_live(lease)
        ttl = 0 if known is None else known[1]
        response = rpc_pb2.LeaseKeepAliveResponse(ID=lease, TTL=ttl)
        answered(response.SerializeToString())

    return [(Forwarding, "ask", ask)]


LINK_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "encoder-mixes-entries",
        "Entries that begin alike and are as many are not encoded again.",
        _encoder_mixes_entries,
    ),
    Mutant(
        "hints-left-out",
        "A refusal is encoded without the hint where to go on.",
        _hints_are_left_out,
    ),
    Mutant(
        "frames-unchecked",
        "The checksums of frames are not looked at.",
        _frames_unchecked,
    ),
    Mutant(
        "leaving-forgotten",
        "Voters that leave are no peers any more when a joint phase begins.",
        _leaving_forgotten,
        seeds=(7,),
    ),
    Mutant(
        "nobody-introduces-himself",
        "Members do not say where they can be reached.",
        _nobody_introduces_himself,
    ),
    Mutant(
        "followers-renew",
        "A follower renews leases without its leader.",
        _followers_renew,
    ),
)
