"""Fixtures of the node tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.node.virtual import VirtualShell


@pytest.fixture
def shell() -> Iterator[VirtualShell]:
    """A virtual shell, closed at the end."""
    made = VirtualShell()
    yield made
    made.close()
