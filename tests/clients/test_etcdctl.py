"""Sessions with etcdctl: what it shows on revstore is what it shows on etcd."""

from __future__ import annotations

from pathlib import Path

import pytest

from revstore.api.dump import DumpReader
from revstore.proto import rpc_pb2
from tests.clients.etcdctl import (
    ETCDCTL,
    NO_ETCDCTL,
    Running,
    Side,
    finish,
    start,
    status_json,
    status_table,
    table,
)
from tests.clients.pair import Pair, serving
from tests.support.etcd import ETCD, NO_ETCD
from tests.support.process import wait_for

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.skipif(ETCD is None, reason=NO_ETCD),
    pytest.mark.skipif(ETCDCTL is None, reason=NO_ETCDCTL),
]

FORMATS = ("simple", "json", "fields")


def revision(pair: Pair) -> int:
    """The revision of both."""
    text = pair.protobuf(rpc_pb2.RangeResponse, "get", "no-such-key")
    return int(text.partition("revision: ")[2].split()[0])


def side_output(side: Side, *args: str) -> str:
    """What a command on one side shows. Raises: AssertionError if it fails."""
    outcome = finish(side, start(side, args), b"")
    assert outcome.status == 0, outcome
    return outcome.out


def test_put(pair: Pair) -> None:
    """``put`` with all its flags, in all formats, and its refusals."""
    for form in FORMATS:
        pair.ok("put", "put/a", form, "-w", form)
        pair.ok("put", "put/a", f"{form} again", "--prev-kv", "-w", form)
        pair.ok("put", "put/a", "--ignore-value", "--prev-kv", "-w", form)
    assert pair.protobuf(rpc_pb2.PutResponse, "put", "put/b", "1")
    pair("put", "put/a", "x", "-w", "table")
    pair.ok("put", "put/stdin", stdin="two\nlines\n")
    assert pair.ok("get", "put/stdin", "--print-value-only") == "two\nlines\n\n"
    pair.ok("put", "put/dash", "--", "-v")
    pair.grant("put_lease", 600)
    pair.ok("put", "put/leased", "1", "--lease={put_lease}")
    pair.ok("put", "put/leased", "2", "--ignore-lease")
    for form in FORMATS:
        pair.ok("get", "put/leased", "-w", form)
    pair.fails("put", "", "x", why="etcdserver: key is not provided")
    pair.fails("put", "put/none", "--ignore-value", why="etcdserver: key not found")
    pair.fails("put", "put/none", "x", "--ignore-lease", why="key not found")
    pair.fails("put", "put/a", "x", "--lease=123abc", why="requested lease not found")
    pair.fails("put", "put/big", stdin="x" * 1_800_000, why="request is too large")
    pair.fails("put", "put/big", stdin="x" * 2_097_200, why="larger than max")
    pair.ok("put", "put/big", stdin="x" * 1_500_000)
    pair.ok("get", "put/big")


def test_get(pair: Pair) -> None:
    """``get`` with all its flags, in all formats, and its refusals."""
    for key, value in (("b", "3"), ("a", "1"), ("c", "2"), ("a", "9"), ("d", "0")):
        pair.ok("put", f"get/{key}", value)
    pair.ok("del", "get/d")
    head = revision(pair)
    for form in (*FORMATS, "table"):
        pair("get", "get/a", "-w", form)
        pair("get", "get/", "--prefix", "-w", form)
        pair("get", "get/none", "-w", form)
    assert "count: 3" in pair.protobuf(rpc_pb2.RangeResponse, "get", "get/", "--prefix")
    for order in ("ASCEND", "DESCEND", ""):
        for target in ("CREATE", "KEY", "MODIFY", "VALUE", "VERSION", ""):
            pair.ok(
                "get", "get/", "--prefix", f"--order={order}", f"--sort-by={target}"
            )
    for flags in (
        ("--limit=2", "--prefix", "-w", "json"),
        ("--limit=2", "--prefix", "--sort-by=VALUE", "--order=DESCEND"),
        ("--consistency=s",),
        ("--consistency=l", "--prefix"),
        ("--prefix", "--keys-only"),
        ("--prefix", "--keys-only", "-w", "json"),
        ("--prefix", "--print-value-only"),
        ("--prefix", f"--rev={head - 1}"),
        ("--prefix", f"--rev={head - 4}", "-w", "fields"),
        ("get/c",),
        ("get/b0", "-w", "json"),
        ("--hex",),
        ("--prefix", "--hex", "-w", "json"),
    ):
        pair.ok("get", "get/", *flags)
    pair.ok("get", "get/b", "--from-key", "--keys-only", "--limit=2")
    pair.ok("get", "", "--prefix", "--keys-only", "--limit=3")
    pair.ok("get", "", "--from-key", "--keys-only", "--limit=3")
    pair.fails("get", "", why="key is not provided")
    pair.fails("get", "get/a", f"--rev={head + 100}", why="future revision")
    pair.fails("get", "get/a", "--order=UP", why="bad sort order")
    pair.fails("get", "get/a", "--sort-by=SIZE", why="bad sort target")
    pair.fails("get", "get/a", "--consistency=x", why="unknown consistency flag")


def test_del(pair: Pair) -> None:
    """``del`` of a key, a range, a prefix and all from a key on."""
    for number in range(9):
        pair.ok("put", f"del/{number}", str(number))
    assert pair.ok("del", "del/0") == "1\n"
    assert pair.ok("del", "del/0") == "0\n"
    pair.ok("del", "del/1", "--prev-kv")
    pair.ok("del", "del/2", "del/4", "--prev-kv", "-w", "json")
    pair.ok("del", "del/4", "-w", "fields", "--prev-kv")
    assert pair.protobuf(rpc_pb2.DeleteRangeResponse, "del", "del/5", "--prev-kv")
    pair.ok("del", "del/", "--prefix", "--prev-kv")
    pair.ok("put", "zz/1", "1")
    pair.ok("put", "zz/2", "2")
    assert pair.ok("del", "zz/", "--from-key") == "2\n"
    pair.fails("del", "", why="key is not provided")


def test_txn(pair: Pair) -> None:
    """``txn`` in its own grammar: every compare, every operation, every refusal."""
    # Not with lease(...): etcdctl 3.4.23 panics on it before it asks a server.
    pair.grant("txn_lease", 600)
    pair.ok("put", "txn/a", "1", "--lease={txn_lease}")
    head = revision(pair)
    compares = (
        f'mod("txn/a") = "{head}"',
        f'create("txn/a") = "{head}"',
        f'c("txn/a") > "{head}"',
        'ver("txn/a") = "1"',
        'version("txn/a") > "1"',
        'val("txn/a") = "1"',
        'value("txn/a") < "0"',
        'mod("txn/none") = "0"',
        'value("txn/none") = ""',
        f'mod("txn/a") < "{head + 1}"',
    )
    for compare in compares:
        pair.ok("txn", stdin=f"{compare}\n\nget txn/a\n\nget txn/none\n\n")
    both = "put txn/b new\nget txn/b\ndel txn/d\nget txn/ --prefix\n"
    for form in FORMATS:
        pair.ok("txn", "-w", form, stdin=f"\n{both}\n\n")
        pair.ok("txn", "-w", form, stdin=f'ver("txn/a") > "5"\n\n\n{both}\n')
    pair.ok("txn", "--interactive", stdin=f'ver("txn/a") > "0"\n\n{both}\n\n')
    several = 'ver("txn/a") = "1"\nval("txn/a") = "1"\nmod("txn/d") = "0"\n'
    assert pair.ok("txn", stdin=f"{several}\nput txn/c 1\n\n\n").startswith("SUCCESS")
    twice = "put txn/x 1\nput txn/x 2\n"
    pair.fails("txn", stdin=f"\n{twice}\n\n", why="duplicate key given in txn request")
    many = "".join(f"put txn/m{number} 1\n" for number in range(129))
    pair.fails("txn", stdin=f"\n{many}\n\n", why="too many operations in txn request")
    pair("txn", stdin='size("txn/a") = "1"\n\n\n\n')
    assert revision(pair) == head + 2 * len(FORMATS) + 2


def test_compaction(fresh_pair: Pair) -> None:
    """``compaction`` hides what came before; hashes stay equal."""
    pair = fresh_pair
    for number in range(20):
        pair.ok("put", f"c/{number % 4}", str(number))
    assert pair.ok("compaction", "9") == "compacted revision 9\n"
    pair.fails("compaction", "9", why="required revision has been compacted")
    pair.fails("compaction", "99", why="is a future revision")
    pair.ok("compaction", "12", "--physical")
    pair.fails("get", "c/0", "--rev=11", why="required revision has been compacted")
    pair.ok("get", "c/", "--prefix", "--rev=12")
    for form in ("json", "simple", "fields", "table"):
        pair("endpoint", "hashkv", "-w", form, view=table if form == "table" else None)
    pair.ok("endpoint", "hashkv", "--rev=15", "-w", "json")
    pair.fails("endpoint", "hashkv", "--rev=5", why="Failed to get the hash")
    watched = pair("watch", "c/0", "--rev=3")
    assert "required revision has been compacted" in watched.errors


def test_watch(pair: Pair) -> None:
    """``watch`` of history and of what comes, in every form; and its commands."""
    first = revision(pair) + 1
    for key, value in (("a", "1"), ("b", "2"), ("a", "3")):
        pair.ok("put", f"w/{key}", value)
    pair.ok("del", "w/b")
    pair.ok("txn", stdin="\nput w/c 1\ndel w/a\nput w/d 2\n\n\n")
    pair.ok("put", "w/a", "END")
    pair.ok("put", "w/zz", "END")
    since = f"--rev={first}"
    pair.watched("END", "w/a", since)
    pair.watched("END", "w/", "--prefix", since)
    pair.watched("END", "w/a", since, "--prev-kv")
    pair.watched("END", "w/a", since, "-w", "fields")
    pair.watched("RU5E", "w/", "--prefix", since, "--prev-kv", "-w", "json")
    pair.watched("END", "w/a", "w/d", since)
    pair.watched("END", "w/b", "w/zzz", f"--rev={first + 3}")
    shown = "env | grep ETCD_WATCH | sort"
    pair.watched('VALUE="END"', "w/a", since, "--", "sh", "-c", shown)
    with pair.running("watch", "w/live", "--prev-kv") as sessions:
        # A watch that has not begun misses what comes before it begins.
        for number in range(2):
            outputs = [""]
            while not all(outputs):
                pair.ok("put", "w/live", f"live{number}")
                outputs = [s.output() for s in sessions]
        for session in sessions:
            session.wait_for("live1")
    with pair.running("watch", "--interactive") as sessions:
        for session in sessions:
            session.type(f"watch w/a {since}")
            session.wait_for("END")
            session.type("progress")
            session.wait_for("progress notify: ")
        outcomes = [session.stop() for session in sessions]
    pair.same(("watch", "--interactive"), outcomes)


def test_lease(pair: Pair) -> None:
    """``lease`` from grant to expiry, with its keys."""
    pair.grant("one", 600)
    pair.ok("put", "lease/b", "1", "--lease={one}")
    pair.ok("put", "lease/a", "2", "--lease={one}")
    pair.ok("lease", "timetolive", "{one}")
    for form in FORMATS:
        pair(
            "lease",
            "timetolive",
            "{one}",
            "-w",
            form,
        )
    pair.ok("lease", "timetolive", "{one}", "--keys", view=sorted)
    pair.ok("lease", "list", view=lambda text: sorted(text.split()))
    for form in FORMATS:
        pair.ok("lease", "keep-alive", "{one}", "--once", "-w", form)
    with pair.running("lease", "keep-alive", "{one}") as sessions:
        for session in sessions:
            session.wait_for("keepalived")
        outcomes = [session.stop() for session in sessions]
    pair.same(("lease", "keep-alive"), outcomes)
    assert "revoked" in pair.ok("lease", "revoke", "{one}")
    pair.fails("lease", "revoke", "{one}", why="requested lease not found")
    pair.ok("lease", "timetolive", "{one}")
    pair("lease", "keep-alive", "{one}", "--once")
    assert pair.ok("get", "lease/", "--prefix") == ""
    pair.grant("short", 1)
    pair.ok("put", "lease/short", "1", "--lease={short}")
    wait_for(
        lambda: not any(one.out for one in pair.both("get", "lease/short")),
        "both leases expired",
    )
    pair.fails("lease", "grant", "9000000001", why="too large lease TTL")
    pair.fails("lease", "grant", "x", why="bad TTL")


def test_endpoint(pair: Pair) -> None:
    """``endpoint`` and ``member list``: the same members, health and hashes."""
    pair.ok("put", "endpoint/a", "1")
    pair.ok("endpoint", "status", view=lambda text: text.split(", ")[:2])
    pair.ok("endpoint", "status", "-w", "json", view=status_json)
    pair.ok("endpoint", "status", "-w", "table", view=status_table)
    pair.ok("endpoint", "status", "--cluster", "-w", "table", view=status_table)
    pair.ok("endpoint", "health")
    pair("endpoint", "health", "-w", "json")
    pair.ok("endpoint", "health", "--cluster")
    for form in FORMATS:
        pair.ok("member", "list", "-w", form)
    pair.ok("member", "list", "-w", "table", view=table)
    pair.fails("member", "remove", "1234", why="member not found")
    pair.fails("member", "promote", "1234", why="member not found")
    update = ("member", "update", "1234", "--peer-urls=http://127.0.0.1:9")
    pair.fails(*update, why="member not found")
    pair.fails(
        "member", "add", "n", "--peer-urls=http://{peer}", why="URLs already exist"
    )
    pair.fails("member", "remove", "{member_hex}", why="not enough started members")
    pair.fails("move-leader", "1234", why="bad leader transferee")


def test_maintenance(pair: Pair, tmp_path: Path) -> None:
    """``defrag``, ``alarm``, ``snapshot``: they work, and our reader reads the file."""
    pair.ok("put", "m/a", "1")
    pair.ok("defrag")
    pair.ok("defrag", "--cluster")
    assert pair.ok("alarm", "list") == ""
    assert pair.ok("alarm", "disarm") == ""
    files = [str(tmp_path / side.name) for side in pair.sides]
    for side, path in zip(pair.sides, files, strict=True):
        side.remember("FILE", path)
    assert pair.ok("snapshot", "save", "{file}") == "Snapshot saved at FILE\n"
    status = ("snapshot", "status", "{file}")
    said = {"ours": "Error: ", "theirs": ", "}
    pair.deviates("snapshot status", *status, **said)
    content = Path(files[0]).read_bytes()
    reader = DumpReader()
    # The last 32 bytes are the checksum that etcdctl has verified and kept.
    rows = dict(row for _, found in reader.feed(content[:-32]) for row in found)
    assert reader.finish() == len(rows)
    assert b"m/a" in rows


def test_auth(fresh_pair: Pair) -> None:
    """Users and roles from nothing to auth enabled, used, and disabled again."""
    pair = fresh_pair
    pair.ok("put", "open/a", "1")
    pair.ok("put", "secret/a", "1")
    pair.fails("auth", "enable", why="root user does not exist")
    pair.ok("user", "add", "root:top")
    pair.ok("user", "add", "eve", "--new-user-password=low")
    pair.ok("user", "add", "bob", "--interactive=false", stdin="builder\n")
    pair.ok("user", "add", "nopw", "--no-password")
    pair.fails("user", "add", "eve:x", why="user name already exists")
    pair.ok("role", "add", "reader")
    pair.fails("role", "add", "reader", why="role name already exists")
    pair.ok("role", "grant-permission", "reader", "read", "open/", "--prefix=true")
    pair.ok("role", "grant-permission", "reader", "readwrite", "mine")
    pair.ok("role", "grant-permission", "reader", "write", "x", "y")
    pair.ok("role", "get", "reader")
    pair.ok("role", "get", "reader", "-w", "json")
    pair.ok("role", "revoke-permission", "reader", "x", "y")
    pair.ok("user", "grant-role", "eve", "reader")
    pair.fails("user", "grant-role", "eve", "none", why="role name not found")
    pair.ok("user", "get", "eve")
    pair.ok("user", "get", "eve", "--detail")
    pair.ok("user", "list")
    pair.ok("user", "list", "-w", "json")
    pair.ok("role", "list")
    assert "Authentication Enabled" in pair.ok("auth", "enable")
    root, eve = "--user=root:top", "--user=eve:low"
    pair.fails("get", "open/a", why="user name is empty")
    pair.fails("get", "open/a", "--user=eve:wrong", why="invalid user ID or password")
    assert pair.ok("get", "open/", "--prefix", eve) == "open/a\n1\n"
    pair.fails("get", "secret/a", eve, why="permission denied")
    pair.fails("get", "", "--prefix", eve, why="permission denied")
    pair.fails("put", "open/a", "2", eve, why="permission denied")
    pair.ok("put", "mine", "2", eve)
    pair.fails("del", "open/a", eve, why="permission denied")
    pair.fails("txn", eve, stdin="\nget secret/a\n\n\n", why="permission denied")
    pair.fails("user", "list", eve, why="permission denied")
    pair.ok("user", "get", "eve", eve)
    pair.fails("watch", "secret/a", eve, why="watch is canceled by the server")
    pair.ok("get", "", "--prefix", root)
    auth_deviations(pair, root, eve)
    pair.ok("user", "passwd", "eve", "--interactive=false", root, stdin="new\n")
    pair.fails("get", "open/a", eve, why="invalid user ID or password")
    pair.ok("get", "open/a", "--user=eve", "--password=new")
    pair.ok("user", "revoke-role", "eve", "reader", root)
    pair.fails("get", "open/a", "--user=eve:new", why="permission denied")
    pair.ok("role", "delete", "reader", root)
    pair.ok("user", "delete", "eve", root)
    pair.fails("user", "delete", "root", root, why="invalid auth management")
    pair.ok("endpoint", "health", root)
    assert "Authentication Disabled" in pair.ok("auth", "disable", root)
    pair.ok("get", "", "--prefix")


def auth_deviations(pair: Pair, root: str, eve: str) -> None:
    """Where current patches ask for more than 3.4.23 does."""
    denied, empty = "etcdserver: permission denied", "etcdserver: user name is empty"
    pair.deviates(
        "compaction needs root", "compaction", "2", eve, ours=denied, theirs="compacted"
    )
    pair.ok("put", "secret/a", "2", root)
    pair.fails("compaction", "2", "--user=eve:x", why="authentication failed")
    # Only on revstore is there something left to compact.
    assert pair.both("compaction", "2", root)[0].status == 0
    pair.fails("compaction", "99", root, why="is a future revision")
    pair.ok("endpoint", "hashkv", "-w", "json", root)
    pair.deviates(
        "status needs a user", "endpoint", "status", ours=empty, theirs="3.4.23"
    )
    pair.deviates("members need a user", "member", "list", ours=empty, theirs="started")
    pair.deviates(
        "hash needs root",
        "endpoint",
        "hashkv",
        ours="etcdserver: user name is empty",
        theirs="auth: user name is empty",
    )
    pair.capture("auth_lease", r"lease (\w+) granted", "lease", "grant", "600", root)
    pair.ok("put", "secret/leased", "1", "--lease={auth_lease}", root)
    pair.deviates(
        "keys of a lease need permission",
        *("lease", "timetolive", "{auth_lease}", "--keys", eve),
        ours=denied,
        theirs="secret/leased",
    )


def test_lock_and_election(pair: Pair) -> None:
    """``lock`` and ``elect``, which live on leases, transactions and watches."""
    script = 'echo "$ETCD_LOCK_KEY" | cut -d/ -f1'
    assert pair.ok("lock", "mutex", "--", "sh", "-c", script) == "mutex\n"
    assert pair("lock", "mutex", "--", "sh", "-c", "exit 3").status != 0
    with pair.running("lock", "held", "--ttl=60") as holders:
        for session in holders:
            session.wait_for("held/")
        with pair.running("lock", "held", "echo", "mine") as waiting:
            listing = ("get", "held/", "--prefix", "--keys-only")
            wait_for(
                lambda: {one.out.count("held/") for one in pair.both(*listing)} == {2},
                "two wait for each lock",
            )
            assert [session.output() for session in waiting] == ["", ""]
            assert {session.stop().status for session in holders} == {0}
            outcomes = [session.end() for session in waiting]
        pair.same(("lock", "held", "echo"), outcomes)
        assert outcomes[0].out == "mine\n"
    with pair.running("elect", "race", "me") as leaders:
        for session in leaders:
            session.wait_for("me\n")
        with pair.running("elect", "race", "--listen") as observers:
            for session in observers:
                session.wait_for("me\n")
        assert len({session.stop().status for session in leaders}) == 1


@pytest.mark.parametrize("forth", [True, False], ids=["to-etcd", "from-etcd"])
def test_make_mirror(pair: Pair, forth: bool) -> None:
    """``make-mirror`` copies what is there and follows what comes, both ways."""
    source, target = pair.sides if forth else pair.sides[::-1]
    prefix = f"mirror-{source.name}/"

    for number in range(5):
        side_output(source, "put", f"{prefix}{number}", str(number))
    args = ("make-mirror", target.address, f"--prefix={prefix}")
    with Running(source, args):
        listing = ("get", prefix, "--prefix")
        wait_for(lambda: side_output(target, *listing).count(prefix) == 5, "the base")
        side_output(source, "put", f"{prefix}new", "1")
        side_output(source, "del", f"{prefix}3")
        side_output(source, "put", f"{prefix}last", "1")
        wait_for(lambda: f"{prefix}last" in side_output(target, *listing), "what came")
        assert side_output(target, *listing) == side_output(source, *listing)
    for side in pair.sides:
        for number in range(5):
            side_output(side, "del", f"{prefix}{number}")


def test_rocksdb(tmp_path: Path) -> None:
    """The same on another backend: writes, history, a watch, a hash."""
    with serving("rocksdb", tmp_path) as pair:
        for number in range(12):
            pair.ok("put", f"r/{number % 3}", str(number))
        pair.ok("del", "r/1", "--prev-kv")
        pair.ok("get", "r/", "--prefix", "-w", "json")
        pair.ok("get", "r/", "--prefix", "--rev=6", "--sort-by=MODIFY")
        pair.ok("txn", stdin='ver("r/0") = "4"\n\nput r/0 END\n\nget r/0\n\n')
        pair.watched("END", "r/", "--prefix", "--rev=2", "--prev-kv")
        pair.ok("compaction", "8", "--physical")
        pair.ok("endpoint", "hashkv", "-w", "json")
        pair.ok("defrag")
        pair.ok("get", "r/", "--prefix")
