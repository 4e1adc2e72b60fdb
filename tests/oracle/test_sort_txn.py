"""etcd's recorded answers to odd sorts, odd comparisons and writes that read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from revstore.proto import rpc_pb2 as rpc
from tests.oracle.kv_session import compare, delete, get, nested, put
from tests.oracle.transcript import FOLDER, Session, needs_transcripts, plain
from tests.support.server import start_server

SORTS: list[dict[str, Any]] = [
    {"limit": 2, "sort_target": 4},
    {"limit": 2, "sort_target": 4, "sort_order": 1},
    {"limit": 2, "sort_target": 4, "sort_order": 2},
    {"sort_target": 4},
    {"limit": 2, "sort_target": 4, "max_mod_revision": 100},
    {"count_only": True, "keys_only": True},
]


def sorts(session: Session) -> list[str]:
    """Ranges over five keys whose values run against their order."""
    for number in range(5):
        request = rpc.PutRequest(key=b"k%d" % number, value=b"v%d" % (9 - number))
        session.ask("KV/Put", request, rpc.PutResponse)
    lines = []
    for fields in SORTS:
        asked = rpc.RangeRequest(key=b"k", range_end=b"l", **fields)
        answer = session.ask("KV/Range", asked, rpc.RangeResponse)
        rows = [(kv.key, kv.value) for kv in answer.kvs]
        lines.append(f"{fields} {rows} {answer.more}")
    return lines


def transactions(session: Session) -> None:
    """Comparisons that make little sense, and ranges beside writes."""

    def txn(label: str, *success: rpc.RequestOp, **fields: Any) -> None:
        request = rpc.TxnRequest(success=success, **fields)
        session.call(label, "KV/Txn", request)

    txn("cmp badtarget NE", compare=[compare(b"k1", 9, 3)])
    txn("cmp badresult", compare=[compare(b"k1", 0, 9)])
    txn("cmp no union", compare=[compare(b"none", 0, 0)])
    txn("cmp wrong union", compare=[compare(b"k1", 0, 1, mod_revision=77)])
    txn(
        "raw",
        put(b"q", b"new"),
        get(b"q"),
        delete(b"k0", b"k3", prev_kv=True),
        get(b"k", range_end=b"l", count_only=True),
        get(b"k1", revision=3),
        put(b"k9", prev_kv=True),
    )
    txn("nested ro", nested(get(b"q")))
    seen = nested(
        put(b"saw-none"),
        compare=[compare(b"fresh", 0, 0, version=0)],
        failure=[put(b"saw-one")],
    )
    txn("nested pre-state", put(b"fresh"), seen)
    txn("del then put diff", delete(b"fresh"), put(b"z1"))
    now = session.ask("KV/Range", rpc.RangeRequest(key=b"a"), rpc.RangeResponse)
    txn(
        "range+rev in write txn equal to new rev",
        put(b"z2"),
        get(b"z2", revision=now.header.revision + 1),
    )
    blind = nested(put(b"newk2", b"", ignore_value=True))
    txn("put ign in txn on key made in same txn nested", put(b"newk"), blind)


@needs_transcripts
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["memory", "lmdb", "rocksdb"])
def test_every_line_of_the_sort_and_txn_session(tmp_path: Path, backend: str) -> None:
    """Each line of a served member is etcd's; there is no deviation."""
    with start_server(backend, tmp_path / "data") as server:
        session = Session(server)
        try:
            sorted_lines = sorts(session)
            transactions(session)
        finally:
            session.close()
    recorded = (FOLDER / "sort_txn.txt").read_text().splitlines()
    assert recorded[: len(SORTS)] == sorted_lines
    expected = [plain(line) for line in recorded[len(SORTS) :]]
    assert len(expected) == len(session.lines)
    for line, (label, outcome) in zip(expected, session.lines, strict=True):
        status, _, answer = outcome.partition(" | ")
        got = f"{status:<4}{label} | {answer}"
        assert got[: len(line)] == line if len(line) > 340 else got == line
