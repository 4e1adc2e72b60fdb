"""The benchmark of the machine does what it says."""

from __future__ import annotations

from revstore_bench.http2 import figures


def test_every_call_is_answered() -> None:
    """Each load's calls are all answered; the figures themselves hold nothing here."""
    found = figures(rounds=1)
    assert len(found) == 5
    assert all(figure.per_call_us > 0 for figure in found)
