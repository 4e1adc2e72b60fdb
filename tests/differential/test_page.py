"""The page on compatibility and the lists that the tests hold."""

from __future__ import annotations

import re
from pathlib import Path

from tests.api import test_auth_transcript
from tests.differential.differences import DIFFERENCES
from tests.oracle import test_kv

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
SAME_AS = {
    "bad sort": "sort option",
    "alarm get": "alarm header",
    "alarm act": "alarm header",
    "alarm deact": "alarm header",
    "alarm deact2": "alarm header",
    "hashkv": "hash revision",
    "neg": "negative watch",
}
"""Lines of the recorded sessions that show a difference with a name of its own."""


def test_the_page_lists_what_the_tests_allow() -> None:
    """Every difference that a test allows is on the page, and no other name is."""
    named = set()
    for row in re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.M):
        named |= set(re.findall(r"`([^`]+)`", row))
    labels = {*test_kv.DEVIATIONS, *test_auth_transcript.DEVIATIONS}
    allowed = {*DIFFERENCES, *(SAME_AS.get(label, label) for label in labels)}
    assert named == allowed
