"""etcd's recorded hashes of one small history, before and after three compactions."""

from __future__ import annotations

from pathlib import Path

import google_crc32c
import pytest

from revstore.proto import kv_pb2
from revstore.proto import rpc_pb2 as rpc
from tests.oracle.kv_session import put
from tests.oracle.transcript import FOLDER, Session, needs_transcripts
from tests.support.server import start_server

HEAD = 8
Row = tuple[int, int, bytes, bytes, bool]
"""Main and sub revision, key, stored value, whether it is a deletion."""


def live(key: bytes, value: bytes, *numbers: int, sub: int = 0) -> Row:
    """A row of a put; the numbers are create revision, mod revision and version."""
    create, mod, version = numbers
    kv = kv_pb2.KeyValue(
        key=key,
        value=value,
        create_revision=create,
        mod_revision=mod,
        version=version,
    )
    return mod, sub, key, kv.SerializeToString(), False


def dead(key: bytes, main: int, sub: int = 0) -> Row:
    """A row of a deletion."""
    return main, sub, key, kv_pb2.KeyValue(key=key).SerializeToString(), True


ROWS: list[Row] = [
    live(b"a", b"1", 2, 2, 1),
    live(b"b", b"2", 3, 3, 1),
    dead(b"a", 4),
    live(b"b", b"3", 3, 5, 2),
    live(b"c", b"x", 6, 6, 1),
    live(b"d", b"", 6, 6, 1, sub=1),
    dead(b"c", 7),
    dead(b"d", 7, sub=1),
    live(b"a", b"again", 8, 8, 1),
]


def make_history(session: Session) -> None:
    """The calls that leave ``ROWS``."""
    for request, method, response in (
        (rpc.PutRequest(key=b"a", value=b"1"), "KV/Put", rpc.PutResponse),
        (rpc.PutRequest(key=b"b", value=b"2"), "KV/Put", rpc.PutResponse),
        (rpc.DeleteRangeRequest(key=b"a"), "KV/DeleteRange", rpc.DeleteRangeResponse),
        (rpc.PutRequest(key=b"b", value=b"3"), "KV/Put", rpc.PutResponse),
        (
            rpc.TxnRequest(success=[put(b"c"), put(b"d", b"")]),
            "KV/Txn",
            rpc.TxnResponse,
        ),
        (
            rpc.DeleteRangeRequest(key=b"c", range_end=b"e"),
            "KV/DeleteRange",
            rpc.DeleteRangeResponse,
        ),
        (rpc.PutRequest(key=b"a", value=b"again"), "KV/Put", rpc.PutResponse),
    ):
        session.ask(method, request, response)


def formula(
    revision: int, compacted: int, *, with_deletions: bool = False
) -> tuple[int, int]:
    """The hash by its definition, and how many rows it covers."""
    newest = {row[2]: row for row in ROWS if row[0] <= revision}
    kept = [
        row
        for row in newest.values()
        if not row[4] or (with_deletions and row[0] == compacted)
    ]
    crc = google_crc32c.extend(0, b"key")
    count = 0
    for row in ROWS:
        main, sub, _key, value, deleted = row
        if main > revision or (main <= compacted and row not in kept):
            continue
        name = main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big")
        crc = google_crc32c.extend(crc, name + b"t" * deleted)
        crc = google_crc32c.extend(crc, value)
        count += 1
    return crc, count


def line(session: Session, revision: int, compacted: int = -1) -> str:
    """One line in the transcript's form."""
    answer = session.ask(
        "Maintenance/HashKV", rpc.HashKVRequest(revision=revision), rpc.HashKVResponse
    )
    assert answer.hash_revision == revision
    own = formula(revision, compacted)
    texts = [str(revision), str(answer.hash), str(own)]
    if compacted > 0:
        texts = ["compact", str(compacted), *texts]
        texts.append(str(formula(revision, compacted, with_deletions=True)))
    return " ".join([*texts, str(answer.hash == own[0]), str(answer.compact_revision)])


def session_lines(session: Session) -> list[str]:
    """Hashes at every revision, before and after each compaction."""
    make_history(session)
    lines = [line(session, revision) for revision in range(2, HEAD + 1)]
    for compacted in (4, 6, 7):
        request = rpc.CompactionRequest(revision=compacted, physical=True)
        session.ask("KV/Compact", request, rpc.CompactionResponse)
        left = range(compacted + 1, HEAD + 1)
        lines += [line(session, revision, compacted) for revision in left]
    return lines


@needs_transcripts
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["memory", "lmdb", "rocksdb"])
def test_every_line_of_the_hash_session(tmp_path: Path, backend: str) -> None:
    """Each hash of a served member is etcd's, and the definition's."""
    with start_server(backend, tmp_path / "data") as server:
        session = Session(server)
        try:
            lines = session_lines(session)
        finally:
            session.close()
    assert lines == (FOLDER / "hashkv.txt").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["memory", "lmdb", "rocksdb"])
def test_hashes_outlive_a_restart(tmp_path: Path, backend: str) -> None:
    """After compaction and restart a hash is still what its definition says."""
    with start_server(backend, tmp_path / "data") as server:
        session = Session(server)
        make_history(session)
        request = rpc.CompactionRequest(revision=6, physical=True)
        session.ask("KV/Compact", request, rpc.CompactionResponse)
        session.close()
        server.restart(kill=True)
        session = Session(server)
        lines = [line(session, revision, 6) for revision in (7, 8)]
        session.close()
    assert [text.split()[-2:] for text in lines] == [["True", "6"]] * 2
