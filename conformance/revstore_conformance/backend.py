"""The conformance checks of backends: clauses, hard keys, model and crashes.

A distribution that has a backend runs them all with one test::

    import pytest
    from revstore_conformance.backend import CHECKS, BackendHarness, name_of, run

    @pytest.mark.parametrize("check", CHECKS, ids=name_of)
    def test_backend(check, tmp_path):
        with BackendHarness("my_package.plugin", tmp_path) as harness:
            run(check, harness)
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from revstore_conformance import (
    backend_clauses,
    backend_crash,
    backend_keys,
    backend_model,
    backend_reads,
)
from revstore_conformance.backend_harness import BackendHarness, Unsupported

__all__ = ["CHECKS", "BackendHarness", "Check", "Unsupported", "name_of", "run"]

Check = Callable[[BackendHarness], None]

CHECKS: tuple[Check, ...] = (
    *backend_reads.CHECKS,
    *backend_clauses.CHECKS,
    *backend_keys.CHECKS,
    *backend_model.CHECKS,
    *backend_crash.CHECKS,
)


def name_of(check: Check) -> str:
    """A short name for a test's id."""
    return check.__name__.removeprefix("check_")


def run(check: Check, harness: BackendHarness) -> None:
    """Run a check; skip, with the reason, what the plugin declares it does not have."""
    try:
        check(harness)
    except Unsupported as exc:
        pytest.skip(str(exc))
    except Exception as exc:
        exc.add_note(
            f"{check.__name__}: {check.__doc__}\n"
            f"backend {harness.plugin.name}, options {harness.options}, "
            f"seed {harness.seed}"
        )
        raise
