"""Fixtures of the node tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.cluster import VirtualCluster
from tests.node.virtual import VirtualShell


@pytest.fixture
def shell() -> Iterator[VirtualShell]:
    """A virtual shell, closed at the end."""
    made = VirtualShell()
    yield made
    made.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[VirtualCluster]:
    """Three virtual members, the first leading."""
    made = VirtualCluster(tmp_path)
    made.lead("a")
    yield made
    made.close()
