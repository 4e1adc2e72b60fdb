"""A lessor over the real store, with time that moves when told to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lease.support import Leases


@pytest.fixture
def leases() -> Iterator[Leases]:
    """A primary without leases."""
    made = Leases()
    made.lessor.promote(0)
    yield made
    made.store.close()


@pytest.fixture
def checkpointed() -> Iterator[Leases]:
    """A primary that checkpoints."""
    made = Leases(checkpoints=True)
    made.lessor.promote(0)
    yield made
    made.store.close()
