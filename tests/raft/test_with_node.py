"""A single member on "raft" behind the real shell, log and store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from revstore.node.settings import PluginChoice
from revstore.types import ApplyResult
from tests.node.virtual import VirtualShell


@pytest.fixture
def shell() -> Iterator[VirtualShell]:
    made = VirtualShell()
    yield made
    made.close()


def open_leader(shell: VirtualShell, path: Path) -> None:
    """Open a member and let the time pass that makes it leader."""
    replica = shell.open(path, consensus=PluginChoice("raft"))
    shell.settle()
    for _ in range(10):
        if replica.is_leader:
            break
        shell.advance(1.0)
    assert replica.is_leader


@pytest.mark.slow
def test_one_member_writes_and_reads(shell: VirtualShell, tmp_path: Path) -> None:
    """A member alone becomes leader, answers writes once they are durable, and reads."""
    open_leader(shell, tmp_path)
    answers = shell.put(b"k", b"v")
    shell.replica.pump()
    assert answers == []
    shell.settle()
    assert answers == [ApplyResult(2)]
    seen: list[object] = []
    shell.replica.read(seen.append)
    shell.settle()
    assert seen == [None]


@pytest.mark.slow
def test_a_data_directory_moves_from_solo_to_raft(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """What one kind of consensus wrote, the other one finds, and the reverse."""
    shell.open(tmp_path)
    shell.settle()
    shell.put(b"a", b"1")
    shell.settle()
    shell.close()
    open_leader(shell, tmp_path)
    assert shell.replica.store.get(b"a") is not None
    shell.put(b"b", b"2")
    shell.settle()
    shell.close()
    shell.open(tmp_path)
    shell.settle()
    assert shell.replica.store.get(b"b") is not None
