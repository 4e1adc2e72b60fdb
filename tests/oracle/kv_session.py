"""The calls behind the transcript ``kv.txt``, in its order."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from revstore.proto import rpc_pb2 as rpc
from tests.oracle.transcript import Session

NO_SPACE = rpc.NOSPACE


def put(key: bytes, value: bytes = b"x", **fields: Any) -> rpc.RequestOp:
    """A put in a transaction."""
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, **fields))


def get(key: bytes, **fields: Any) -> rpc.RequestOp:
    """A range in a transaction."""
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, **fields))


def delete(key: bytes, end: bytes = b"", **fields: Any) -> rpc.RequestOp:
    """A delete in a transaction."""
    request = rpc.DeleteRangeRequest(key=key, range_end=end, **fields)
    return rpc.RequestOp(request_delete_range=request)


def nested(*success: rpc.RequestOp, **fields: Any) -> rpc.RequestOp:
    """A transaction in a transaction."""
    return rpc.RequestOp(request_txn=rpc.TxnRequest(success=success, **fields))


def compare(key: bytes, target: int, result: int, **union: Any) -> rpc.Compare:
    """A comparison; target and result as numbers, which may be unknown ones."""
    found = rpc.Compare(key=key, **union)
    found.target = target  # type: ignore[assignment]  # any number is sent
    found.result = result  # type: ignore[assignment]  # any number is sent
    return found


def ranges_and_puts(session: Session) -> None:
    """Single keys, errors, and the ways to range over five keys."""

    def call_range(label: str, key: bytes, **fields: Any) -> None:
        session.call(label, "KV/Range", rpc.RangeRequest(key=key, **fields))

    def call_put(label: str, key: bytes, **fields: Any) -> None:
        session.call(label, "KV/Put", rpc.PutRequest(key=key, **fields))

    call_range("empty range", b"")
    call_put("empty put", b"")
    call_range("range missing", b"a")
    call_put("put a", b"a", value=b"1")
    call_put("put prev", b"a", value=b"2", prev_kv=True)
    call_put("put ignv val", b"a", value=b"2", ignore_value=True)
    call_put("put ignl lease", b"a", lease=4, ignore_lease=True)
    call_put("put ign missing", b"zz", ignore_value=True)
    call_put("put badlease", b"a", lease=77)
    call_range("range future", b"a", revision=100)
    call_range("range neg", b"a", revision=-5)
    call_range("range rev2", b"a", revision=2)
    call_range("bad sort", b"a", sort_order=9)
    for number in range(5):
        request = rpc.PutRequest(key=b"k%d" % number, value=b"v%d" % (9 - number))
        session.ask("KV/Put", request, rpc.PutResponse)
    five = {"key": b"k", "range_end": b"l"}
    call_range("limit2", **five, limit=2, keys_only=True)
    call_range("limit2sortV", **five, limit=2, sort_target=rpc.RangeRequest.MOD)
    call_range(
        "desc", **five, limit=2, sort_order=rpc.RangeRequest.DESCEND, keys_only=True
    )
    call_range("maxmod", **five, limit=1, max_mod_revision=6, keys_only=True)
    call_range("count", **five, count_only=True, limit=1)
    call_range("inverted", b"z", range_end=b"a")
    call_range("neg limit", **five, limit=-1, keys_only=True)
    for label, delete_request in (
        ("del none", rpc.DeleteRangeRequest(key=b"nope")),
        ("del empty", rpc.DeleteRangeRequest()),
        ("del prev", rpc.DeleteRangeRequest(key=b"k4", prev_kv=True)),
    ):
        session.call(label, "KV/DeleteRange", delete_request)


def transactions(session: Session) -> None:
    """What may stand in one transaction, what its comparisons and ranges see."""

    def txn(label: str, *success: rpc.RequestOp, **fields: Any) -> None:
        request = rpc.TxnRequest(success=success, **fields)
        session.call(label, "KV/Txn", request)

    branches = {"failure": [put(b"q")]}
    txn("txn dup", put(b"q"), put(b"q"))
    txn("txn put+del", put(b"q"), delete(b"a", b"z"))
    txn("txn del+del", delete(b"q"), delete(b"a0", b"z"))
    txn("txn 2br", put(b"q"), **branches)
    txn("txn emptyop", rpc.RequestOp())
    txn("txn empty")
    txn("txn toomany", *(put(b"q%d" % number) for number in range(129)))
    txn("txn nested dup", put(b"q"), nested(put(b"q")))
    txn("txn nested dup 2br", nested(put(b"q"), **branches))
    txn(
        "txn readafterwrite",
        put(b"q", b"new"),
        get(b"q"),
        delete(b"q", prev_kv=True),
        get(b"q"),
    )
    txn("txn range future", get(b"q", revision=1000))
    txn("txn range neg", get(b"q", revision=-1))
    unborn = {"create_revision": 0}
    five = compare(b"k", 1, 1, range_end=b"l", **unborn)
    txn("txn cmp range all", get(b"a"), compare=[five])
    txn("txn cmp emptykey", get(b"a"), compare=[compare(b"", 1, 1, **unborn)])
    txn("txn cmp value missing", get(b"a"), compare=[compare(b"none", 3, 0, value=b"")])
    txn("txn cmp badtarget", get(b"a"), compare=[compare(b"a", 9, 0)])
    unwritten = compare(b"n1", 0, 0, version=0)
    inner = nested(put(b"n2"), compare=[unwritten], failure=[put(b"n3")])
    txn("txn nested", put(b"n1"), inner)
    txn("txn put badlease", put(b"n1", lease=99))
    txn("txn put ign missing", put(b"n1"), put(b"n99", b"", ignore_value=True))
    txn("txn put ign created in txn", put(b"n77"), nested())


def sizes_and_compactions(session: Session) -> None:
    """Requests that are too large, and compaction."""
    for label, size in (("big put", 1536 * 1024), ("bigger put", 3 * 1024 * 1024)):
        session.call(label, "KV/Put", rpc.PutRequest(key=b"a", value=b"x" * size))
    for label, revision, physical in (
        ("compact fut", 1000, False),
        ("compact neg", -1, False),
        ("compact 0", 0, False),
        ("compact 5", 5, True),
        ("compact 5 again", 5, False),
    ):
        request = rpc.CompactionRequest(revision=revision, physical=physical)
        session.call(label, "KV/Compact", request)
    for revision in (4, 5):
        asked = rpc.RangeRequest(key=b"a", revision=revision)
        session.call(f"range {revision}", "KV/Range", asked)
    txn = rpc.TxnRequest(success=[get(b"q", revision=-1)])
    session.call("txn range neg after compact", "KV/Txn", txn)


def leases(session: Session) -> None:
    """Leases with odd numbers and lifetimes, and what is attached to them."""
    for label, ttl, number in (
        ("grant0", 0, 0),
        ("grant neg", -5, 0),
        ("grant id", 100, 42),
        ("grant dup", 100, 42),
        ("grant negid", 100, -3),
        ("grant large", 9_000_000_001, 0),
    ):
        request = rpc.LeaseGrantRequest(TTL=ttl, ID=number)
        session.call(label, "Lease/LeaseGrant", request)
    session.call("put lease", "KV/Put", rpc.PutRequest(key=b"l1", lease=42))
    session.call("put lease2", "KV/Put", rpc.PutRequest(key=b"l0", lease=42))
    live = "Lease/LeaseTimeToLive"
    session.call("ttl", live, rpc.LeaseTimeToLiveRequest(ID=42, keys=True))
    session.call("ttl unk", live, rpc.LeaseTimeToLiveRequest(ID=999))
    session.call("leases", "Lease/LeaseLeases", rpc.LeaseLeasesRequest())
    for label, number in (("revoke unk", 999), ("revoke", 42)):
        revoke = rpc.LeaseRevokeRequest(ID=number)
        session.call(label, "Lease/LeaseRevoke", revoke)
    session.keep_alive("keepalive unk", 999)


def maintenance(session: Session) -> None:
    """Status, the alarm and what it forbids, hashes, and what one member cannot do."""
    call = session.call

    def alarm(label: str, action: rpc.AlarmRequest.AlarmAction) -> None:
        request = rpc.AlarmRequest(action=action, memberID=1, alarm=NO_SPACE)
        call(label, "Maintenance/Alarm", request)

    call("status", "Maintenance/Status", rpc.StatusRequest())
    call("alarm get", "Maintenance/Alarm", rpc.AlarmRequest())
    alarm("alarm act", rpc.AlarmRequest.ACTIVATE)
    call("put nospace", "KV/Put", rpc.PutRequest(key=b"a"))
    call("put empty nospace", "KV/Put", rpc.PutRequest())
    call("del nospace", "KV/DeleteRange", rpc.DeleteRangeRequest(key=b"a"))
    call("grant nospace", "Lease/LeaseGrant", rpc.LeaseGrantRequest(TTL=5))
    alarm("alarm deact", rpc.AlarmRequest.DEACTIVATE)
    alarm("alarm deact2", rpc.AlarmRequest.DEACTIVATE)
    answer = session.ask("Maintenance/Hash", rpc.HashRequest(), rpc.HashResponse)
    answer.hash = 3464004619 if answer.hash else 0
    session.note("hash", f"OK | {' '.join(str(answer).split())}")
    for label, revision in (("hashkv", 0), ("hashkv fut", 999), ("hashkv old", 2)):
        call(label, "Maintenance/HashKV", rpc.HashKVRequest(revision=revision))
    call("defrag", "Maintenance/Defragment", rpc.DefragmentRequest())
    for number in (0, 5):
        request = rpc.MoveLeaderRequest(targetID=number)
        call(f"moveleader {number}", "Maintenance/MoveLeader", request)
    call("downgrade", "Maintenance/Downgrade", rpc.DowngradeRequest())
    session.snapshot("snapshot")


def cluster_and_auth(session: Session) -> None:
    """Changes that a cluster of one refuses, and auth while it is off."""
    call = session.call
    call("members", "Cluster/MemberList", rpc.MemberListRequest())
    bad = rpc.MemberAddRequest(peerURLs=["foo"])
    call("madd bad", "Cluster/MemberAdd", bad)
    call("madd none", "Cluster/MemberAdd", rpc.MemberAddRequest())
    call("mrem", "Cluster/MemberRemove", rpc.MemberRemoveRequest(ID=3))
    update = rpc.MemberUpdateRequest(ID=3, peerURLs=["http://127.0.0.1:1"])
    call("mupd", "Cluster/MemberUpdate", update)
    call("mprom", "Cluster/MemberPromote", rpc.MemberPromoteRequest(ID=3))
    status = session.ask("Maintenance/Status", rpc.StatusRequest(), rpc.StatusResponse)
    own = status.header.member_id
    call("mprom self", "Cluster/MemberPromote", rpc.MemberPromoteRequest(ID=own))
    call("mrem self", "Cluster/MemberRemove", rpc.MemberRemoveRequest(ID=own))
    role, again = rpc.AuthRoleAddRequest(name="ro"), rpc.AuthRoleAddRequest(name="ro")
    requests: list[tuple[str, str, Message]] = [
        ("auth enable", "AuthEnable", rpc.AuthEnableRequest()),
        ("authn", "Authenticate", rpc.AuthenticateRequest(name="x", password="y")),
        ("useradd empty", "UserAdd", rpc.AuthUserAddRequest(password="y")),
        ("userget", "UserGet", rpc.AuthUserGetRequest(name="x")),
        ("roleadd", "RoleAdd", role),
        ("roleadd2", "RoleAdd", again),
        ("roleadd empty", "RoleAdd", rpc.AuthRoleAddRequest()),
        ("roleget", "RoleGet", rpc.AuthRoleGetRequest(role="none")),
        ("roleget root", "RoleGet", rpc.AuthRoleGetRequest(role="root")),
        ("authdisable", "AuthDisable", rpc.AuthDisableRequest()),
        ("authstatus", "AuthStatus", rpc.AuthStatusRequest()),
    ]
    for label, method, request in requests:
        call(label, f"Auth/{method}", request)


def _create(**fields: Any) -> rpc.WatchRequest:
    return rpc.WatchRequest(create_request=rpc.WatchCreateRequest(**fields))


def _cancel(number: int) -> rpc.WatchRequest:
    cancel = rpc.WatchCancelRequest(watch_id=number)
    return rpc.WatchRequest(cancel_request=cancel)


def watches(session: Session) -> None:
    """Watch streams: refusals, ids, history, filters, progress."""
    progress = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())
    puts_away = [rpc.WatchCreateRequest.NOPUT]
    history = _create(key=b"k", range_end=b"l", start_revision=6, prev_kv=True)
    deletes = _create(key=b"\0", range_end=b"\0", start_revision=6, filters=puts_away)
    same = _create(key=b"a", watch_id=5)
    streams: list[tuple[str, list[rpc.WatchRequest], int]] = [
        ("compacted", [_create(key=b"a", start_revision=2)], 2),
        ("neg", [_create(key=b"a", start_revision=-1)], 2),
        ("emptyrange", [_create(key=b"z", range_end=b"a")], 1),
        ("dup", [same, same], 2),
        ("negid", [_create(key=b"a", watch_id=-7)], 2),
        ("cancel", [_create(key=b"a"), _cancel(0), _cancel(9)], 3),
        ("hist", [history], 2),
        ("prog", [_create(key=b"a"), progress], 2),
        ("prog none", [progress], 1),
        ("future", [_create(key=b"a", start_revision=1000)], 2),
        ("filter", [deletes], 2),
        ("emptykey", [_create(start_revision=6)], 2),
    ]
    for label, requests, answers in streams:
        session.watch(label, requests, answers)


def run(session: Session) -> None:
    """The whole session."""
    ranges_and_puts(session)
    transactions(session)
    sizes_and_compactions(session)
    leases(session)
    maintenance(session)
    cluster_and_auth(session)
    watches(session)
