"""The document of the machine: its tables and its example are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import revstore_http2
from revstore_http2 import Limits

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs/design/http2.md").read_text()


def test_the_example_runs() -> None:
    """The example of the document does what it says."""
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(example, "docs/design/http2.md", "exec"), {})


def test_bounds_are_told_as_they_are() -> None:
    """Each bound in the table exists and has the value that is told."""
    limits = Limits()
    told = re.findall(r"`([a-z_]+)` ([0-9.]+)", TEXT)
    assert len(told) > 20
    for name, value in told:
        assert float(value) == getattr(limits, name), name


def test_files_are_told_all() -> None:
    """Every module of the package has its place in the table of files."""
    folder = Path(revstore_http2.__file__).parent
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    told = set(re.findall(r"`([a-z0-9_]+\.py)`", TEXT))
    assert modules - {"frames.py", "stream.py"} <= told
