"""Names that survive power loss.

A file or folder that was made, renamed or removed is so for good only when the directory
that holds its name is synced.
"""

from __future__ import annotations

import os
from pathlib import Path


def make_durable(path: Path) -> None:
    """Make a private directory and those above it; the names of new ones are durable.

    Raises: OSError.
    """
    if not path.is_dir():
        make_durable(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
