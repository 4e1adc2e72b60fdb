"""A member for the tests of the services."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.member import FakeMember


@pytest.fixture
def member() -> Iterator[FakeMember]:
    """A fresh member with auth off."""
    found = FakeMember()
    yield found
    found.close()
