"""Every shipped backend keeps the backend contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from revstore_conformance.backend import CHECKS, BackendHarness, Check, name_of, run

MIB = 1024 * 1024

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "memory": ("revstore_memory.plugin", {}),
    "lmdb": ("revstore_lmdb.plugin", {}),
    "lmdb-engine-1.0": ("revstore_lmdb.plugin", {"engine": "1.0"}),
    "lmdb-small-map": ("revstore_lmdb.plugin", {"map_bytes": MIB}),
    "rocksdb": ("revstore_rocksdb.plugin", {}),
    "rocksdb-small-buffers": (
        "revstore_rocksdb.plugin",
        {"write_buffer_bytes": MIB // 4, "block_cache_bytes": MIB, "bloom_bits": 0},
    ),
}


@pytest.fixture(params=sorted(BACKENDS))
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BackendHarness]:
    module, options = BACKENDS[request.param]
    with BackendHarness(module, tmp_path, options) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_backend(harness: BackendHarness, check: Check) -> None:
    """The backend passes the check, or declares that it lacks what it needs."""
    run(check, harness)
