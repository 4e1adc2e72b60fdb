"""Names of the files of a log and the errors that speak of them."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from revstore.errors import CorruptionError
from revstore_wal.files import Files

LOCK_NAME = "lock"
PREPARED_NAME = "0.tmp"
"""The next file, before it has a name of its own."""

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.wal")


class Segment(NamedTuple):
    """One file of the log.

    ``first`` is the index behind the last entry when the file was begun, so that a log
    whose older files are freed knows where it stood.
    """

    sequence: int
    first: int

    @property
    def name(self) -> str:
        """The file's name, as etcd has it."""
        return f"{self.sequence:016x}-{self.first:016x}.wal"


def list_segments(files: Files, directory: Path) -> list[Segment]:
    """The files of a log in their order.

    Raises:
        CorruptionError: one is missing between two others.
        OSError: the directory cannot be read.
    """
    found = []
    for name in files.listdir(directory):
        match = _NAME.fullmatch(name)
        if match:
            found.append(Segment(int(match[1], 16), int(match[2], 16)))
    found.sort()
    for before, after in pairwise(found):
        if after.sequence != before.sequence + 1:
            raise CorruptionError(
                f"{directory / after.name}: the file before it is missing (the one "
                f"found is {before.name}); restore it, or the directory from a backup"
            )
    return found


def corrupt(path: Path, offset: int, reason: str) -> CorruptionError:
    """The error for damage in a file."""
    return CorruptionError(
        f"{path} is damaged at offset {offset}: {reason}; nothing was cut, restore the "
        "file from a backup or remove this member and add it again"
    )
