"""A session with the npm client etcd3: what it finds is what it finds on etcd."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.clients.environments import NotInstalledError
from tests.clients.npm_session import NO_NODE, NODE, NPM, modules, run_session
from tests.clients.pair import Pair
from tests.support.etcd import ETCD, NO_ETCD

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.skipif(ETCD is None, reason=NO_ETCD),
    pytest.mark.skipif(NODE is None or NPM is None, reason=NO_NODE),
]
FACTS_MIN = 55


def test_session(fresh_pair: Pair, request: pytest.FixtureRequest) -> None:
    """Every call of the session works, and finds what it finds on etcd."""
    assert request.config.cache is not None
    try:
        packages = modules(request.config.cache.mkdir("clients"))
    except NotInstalledError as exc:
        pytest.skip(f"etcd3 cannot be installed: {exc}")
    session = partial(run_session, packages=packages)
    with ThreadPoolExecutor() as pool:
        ours, theirs = pool.map(
            session, (fresh_pair.revstore.address, fresh_pair.etcd.address)
        )
    assert ours == theirs
    assert len(ours) >= FACTS_MIN
