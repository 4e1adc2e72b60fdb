"""A server that has to stand what is fired at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuzz.target import Target, under_fire

GROWTH_BYTES_MAX = 200 * 1024**2


@contextmanager
def tried(folder: Path) -> Iterator[Target]:
    """A server that must live, stay small, and come back as it was."""
    with under_fire(folder) as found:
        before = found.memory_bytes()
        yield found
        grown = found.memory_bytes() - before
        assert grown < GROWTH_BYTES_MAX, f"{grown} bytes more after {found.calls} calls"
        found.survive()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """A server for one test."""
    with tried(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server for all tests of a module."""
    with tried(tmp_path_factory.mktemp("fuzz")) as found:
        yield found
