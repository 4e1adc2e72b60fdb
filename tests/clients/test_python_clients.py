"""Sessions with Python clients from PyPI: what they find is what they find on etcd."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients.environments import run_session
from tests.clients.pair import Pair
from tests.support.etcd import ETCD, NO_ETCD

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.skipif(ETCD is None, reason=NO_ETCD),
]


@pytest.mark.parametrize(("client", "facts_min"), [("etcd3", 45), ("aetcd", 40)])
def test_session(
    fresh_pair: Pair, client: str, facts_min: int, request: pytest.FixtureRequest
) -> None:
    """Every call of the session works, and finds what it finds on etcd."""

    def session(address: str) -> dict[str, object]:
        return run_session(client, address, request.config)

    with ThreadPoolExecutor() as pool:
        ours, theirs = pool.map(
            session, (fresh_pair.revstore.address, fresh_pair.etcd.address)
        )
    assert ours == theirs
    assert len(ours) >= facts_min
