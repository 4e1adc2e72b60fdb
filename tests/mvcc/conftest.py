"""Stores for the tests of MVCC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.mvcc.harness import Harness, open_backend

from revstore.interfaces.backend import Backend
from revstore.mvcc.store import Store

BACKENDS = ["memory", "lmdb", "rocksdb"]


@pytest.fixture(params=BACKENDS)
def make_backend(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[], Backend]:
    """Opens the same backend each time it is called."""
    return lambda: open_backend(request.param, tmp_path)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    """A store in memory with its model."""
    made = Harness(lambda: open_backend("memory", tmp_path), Random(1))
    yield made
    made.close()


@pytest.fixture
def store(harness: Harness) -> Store:
    """A store in memory."""
    return harness.store
