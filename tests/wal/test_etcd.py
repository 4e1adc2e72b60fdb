"""The file format is etcd's: each side reads what the other wrote."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError

from revstore.interfaces.wal import WalRecovery
from revstore.proto import raft_internal_pb2, raft_pb2
from revstore.types import Entry, EntryType
from revstore_wal.log import SegmentWal
from revstore_wal.options import SegmentOptions

PATIENCE_S = 30.0
pytestmark = [
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("etcd") and shutil.which("etcdctl")),
        reason="needs etcd and etcdctl",
    ),
]


class Etcd:
    """One etcd process and its address."""

    def __init__(self, data: Path, log: Path) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in _free_ports(2))
        self.endpoint = client
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [
                "etcd",
                "--name=one",
                f"--data-dir={data}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=one={peer}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def ctl(self, *arguments: str) -> str:
        """Run etcdctl and return what it says."""
        done = subprocess.run(
            ["etcdctl", f"--endpoints={self.endpoint}", *arguments],
            env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        return done.stdout

    def wait(self, log: Path) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, log.read_text()[-3000:]
            try:
                self.ctl("endpoint", "health")
                return
            except subprocess.SubprocessError:
                continue
        raise AssertionError("etcd did not become healthy: " + log.read_text()[-3000:])

    def stop(self) -> None:
        """End it and wait."""
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._log.close()


@contextmanager
def running_etcd(data: Path, log: Path) -> Iterator[Etcd]:
    """An etcd that serves ``data``."""
    etcd = Etcd(data, log)
    try:
        etcd.wait(log)
        yield etcd
    finally:
        etcd.stop()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The WAL directory of an etcd that took 30 puts."""
    place = tmp_path_factory.mktemp("etcd")
    with running_etcd(place / "data", place / "log") as etcd:
        for number in range(30):
            etcd.ctl("put", f"key{number:02}", "v" * number * 20)
    return place / "data" / "member" / "wal"


def read_copy(source: Path, target: Path) -> tuple[WalRecovery, list[Entry]]:
    """What our log finds in a copy of etcd's directory."""
    shutil.copytree(source, target)
    wal = SegmentWal(target, b"", False)
    found = wal.recovery()
    entries = wal.read(found.first_index, found.last_index + 1)
    wal.close()
    return found, entries


def puts_of(entries: list[Entry]) -> list[tuple[bytes, bytes]]:
    """The puts in a log, in its order.

    etcd 3.4 also writes requests of its v2 store, which do not parse as this message.
    """
    puts = []
    for entry in entries:
        if entry.type is EntryType.NORMAL and entry.data:
            try:
                request = raft_internal_pb2.InternalRaftRequest.FromString(entry.data)
            except DecodeError:
                continue
            if request.HasField("put"):
                puts.append((request.put.key, request.put.value))
    return puts


EXPECTED = [(f"key{n:02}".encode(), b"v" * n * 20) for n in range(30)]


def test_we_read_what_etcd_wrote(written: Path, tmp_path: Path) -> None:
    """Entries, hard state and metadata of a real etcd's log decode."""
    found, entries = read_copy(written, tmp_path / "wal")
    assert puts_of(entries) == EXPECTED
    assert [entry.index for entry in entries] == list(range(1, len(entries) + 1))
    change = raft_pb2.ConfChange.FromString(entries[0].data)
    assert entries[0].type is EntryType.CONF_CHANGE
    assert found.hard_state.vote == change.node_id != 0
    assert found.hard_state.term == entries[-1].term
    assert found.hard_state.commit >= len(entries) - 1
    assert found.truncated_bytes == 0
    assert found.metadata


def test_we_go_on_in_what_etcd_wrote(written: Path, tmp_path: Path) -> None:
    """A log that etcd began can be appended to and opened again."""
    found, entries = read_copy(written, tmp_path / "wal")
    more = [Entry(found.hard_state.term, found.last_index + 1, b"ours")]
    wal = SegmentWal(tmp_path / "wal", b"", False)
    wal.append(None, more)
    wal.close()
    wal = SegmentWal(tmp_path / "wal", b"", False)
    assert wal.read(1, wal.last_index() + 1) == entries + more
    wal.close()


@pytest.mark.parametrize("segment_bytes", [SegmentOptions().segment_bytes, 4096])
def test_etcd_reads_what_we_wrote(
    written: Path, tmp_path: Path, segment_bytes: int
) -> None:
    """An etcd started on our log, batch marks and file cuts included, has all keys.

    It then goes on in our files, and we read those too.
    """
    found, entries = read_copy(written, tmp_path / "wal")
    target = tmp_path / "data" / "member" / "wal"
    options = SegmentOptions(segment_bytes=segment_bytes)
    wal = SegmentWal(target, found.metadata, False, options)
    for entry in entries:
        state = found.hard_state if entry is entries[-1] else None
        wal.append(state, [entry])
        wal.sync()
    wal.close()
    with running_etcd(tmp_path / "data", tmp_path / "log") as etcd:
        keys = etcd.ctl("get", "", "--prefix", "--keys-only").split()
        assert keys == [key.decode() for key, _ in EXPECTED]
        assert etcd.ctl("get", "key29", "--print-value-only").strip() == "v" * 580
        etcd.ctl("put", "theirs", "1")
    _, after = read_copy(target, tmp_path / "after")
    assert after[: len(entries)] == entries
    assert puts_of(after) == [*EXPECTED, (b"theirs", b"1")]
