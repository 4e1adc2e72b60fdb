"""The inbox: one snapshot that waits, one that comes in, and nothing half."""

from __future__ import annotations

from pathlib import Path

import pytest

from revstore.errors import StorageError
from revstore.snapshot.inbox import FileInbox


def waiting(inbox: FileInbox) -> bytes | None:
    """What waits."""
    file = inbox.open()
    if file is None:
        return None
    with file:
        return file.read()


def test_what_is_committed_waits_until_it_is_cleared(tmp_path: Path) -> None:
    """A spool becomes the snapshot that waits in one step, and leaves with ``clear``."""
    inbox = FileInbox(tmp_path / "snapshot.in")
    assert waiting(inbox) is None
    spool = inbox.spool()
    spool.write(b"some")
    spool.write(b" bytes")
    spool.finish()
    with spool.open() as file:
        assert file.read() == b"some bytes"
    assert waiting(inbox) is None
    spool.commit()
    assert waiting(FileInbox(tmp_path / "snapshot.in")) == b"some bytes"
    spool.discard()
    assert waiting(inbox) == b"some bytes"
    inbox.clear()
    assert waiting(inbox) is None
    assert list(tmp_path.iterdir()) == []


def test_a_new_spool_takes_the_place_of_an_old_one(tmp_path: Path) -> None:
    """Who still holds the old one can neither write to the new one nor remove it."""
    inbox = FileInbox(tmp_path / "snapshot.in")
    old = inbox.spool()
    old.write(b"old")
    new = inbox.spool()
    new.write(b"new")
    old.write(b"er")
    old.discard()
    new.finish()
    new.commit()
    assert waiting(inbox) == b"new"
    inbox.clear()


def test_a_spool_that_a_crash_left_is_removed(tmp_path: Path) -> None:
    """Nobody goes on with it."""
    spool = FileInbox(tmp_path / "snapshot.in").spool()
    spool.write(b"half")
    spool.finish()
    FileInbox(tmp_path / "snapshot.in").clear()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_is_a_storage_error(tmp_path: Path) -> None:
    """Each step says what could not be done, and with which file."""
    gone = FileInbox(tmp_path / "gone" / "snapshot.in")
    with pytest.raises(StorageError, match=r"begun: .*No such file"):
        gone.spool()
    inbox = FileInbox(tmp_path / "snapshot.in")
    spool = inbox.spool()
    spool.finish()
    with pytest.raises(StorageError, match="written"):
        spool.write(b"late")
    spool.discard()
    with pytest.raises(StorageError, match="kept"):
        spool.commit()
    with pytest.raises(StorageError, match="read"):
        spool.open()
