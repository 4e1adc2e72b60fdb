"""etcd's recorded answers to key-value, lease, maintenance and watch calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from revstore.version import ETCD_API_VERSION
from tests.oracle import kv_session
from tests.oracle.transcript import (
    RECORDED_AS,
    SILENCE,
    Deviations,
    Session,
    check,
    needs_transcripts,
    read,
)
from tests.support.server import start_server

SINCE_3_5 = "the answer to Alarm has a header since 3.5"
DEVIATIONS: Deviations = {
    "bad sort": (
        "ERR | INVALID_ARGUMENT | etcdserver: invalid sort option",
        "unknown sort options are refused since 3.6",
    ),
    "status": (
        f'OK | header {{ CM revision: 17 raft_term: 2 }} version: "{ETCD_API_VERSION}" '
        "dbSize: SOME leader: CHOSEN raftIndex: SOME raftTerm: 2 raftAppliedIndex: SOME "
        'dbSizeInUse: SOME storageVersion: "3.6.0" dbSizeQuota: 2147483648 '
        "downgradeInfo { }",
        "the version followed is another one, and 3.6 says more",
    ),
    "alarm get": ("OK | header { CM revision: 17 raft_term: 2 }", SINCE_3_5),
    "alarm act": (
        "OK | header { CM revision: 17 raft_term: 2 } "
        "alarms { memberID: 1 alarm: NOSPACE }",
        SINCE_3_5,
    ),
    "alarm deact": (
        "OK | header { CM revision: 18 raft_term: 2 } "
        "alarms { memberID: 1 alarm: NOSPACE }",
        SINCE_3_5,
    ),
    "alarm deact2": ("OK | header { CM revision: 18 raft_term: 2 }", SINCE_3_5),
    "hashkv": (
        "OK | header { CM revision: 18 raft_term: 2 } hash: 994488938 "
        "compact_revision: 5 hash_revision: 18",
        "3.6 says which revision was hashed; the hash itself is the recorded one",
    ),
    "downgrade": (
        "ERR | INVALID_ARGUMENT | etcdserver: wrong downgrade target version format",
        "the method is there since 3.5",
    ),
    "authstatus": (
        "OK | header { CM revision: 18 raft_term: 2 } authRevision: 2",
        "the method is there since 3.5",
    ),
    "neg": (
        "header { CM revision: 18 raft_term: 2 } watch_id: -1 created: true "
        'canceled: true cancel_reason: "etcdserver: mvcc: required revision has been '
        f'compacted"\n{SILENCE}',
        "3.6 refuses a negative start revision with one answer",
    ),
}


@needs_transcripts
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["memory", "lmdb", "rocksdb"])
def test_every_line_of_the_kv_session(tmp_path: Path, backend: str) -> None:
    """Each answer of a served member is etcd's, but for the listed deviations."""
    with start_server(backend, tmp_path / "data", **RECORDED_AS) as server:
        session = Session(server)
        try:
            kv_session.run(session)
        finally:
            session.close()
    check(session.lines, read("kv.txt"), DEVIATIONS)
