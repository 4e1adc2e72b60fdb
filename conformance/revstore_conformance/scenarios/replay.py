"""Replaying a file and comparing what happens with what is written there.

Lines of loggers are dropped from both sides, since the machine under test has no
logger, and an output of only ``ok`` equals an empty one.
"""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

import msgspec

from revstore_conformance.scenarios import script
from revstore_conformance.scenarios.commands import Session
from revstore_conformance.scenarios.script import Directive, ScriptError

_LOGGER_LINE = re.compile(r"\s*(DEBUG|INFO|WARN|ERROR|FATAL) ")


class Failure(msgspec.Struct, frozen=True):
    """One directive that went otherwise."""

    path: Path
    line: int
    header: str
    detail: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.header}\n{self.detail}"


def find_files(paths: Iterable[Path]) -> list[Path]:
    """The files named, and all ``.txt`` files below the folders named, in order."""
    out: list[Path] = []
    for path in paths:
        out += sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    return out


def normal(lines: list[str]) -> list[str]:
    """Output as it is compared."""
    kept = [line.rstrip() for line in lines if not _LOGGER_LINE.match(line)]
    while kept and not kept[-1]:
        kept.pop()
    return [] if kept == ["ok"] else kept


def replay(path: Path) -> list[Failure]:
    """Run a file; what differs, up to the first exception."""
    failures: list[Failure] = []
    try:
        directives, _ = script.parse(path.read_text(encoding="utf-8"))
    except (ScriptError, OSError, UnicodeDecodeError) as exc:
        return [Failure(path, 0, "cannot be read", str(exc))]
    session = Session()
    for directive in directives:
        header = " ".join(directive.header)
        try:
            got = session.handle(directive).splitlines()
        except Exception:
            # Whatever a machine under test raises is this directive's result.
            detail = traceback.format_exc()
            return [*failures, Failure(path, directive.line, header, detail)]
        detail = _difference(directive, got)
        if detail:
            failures.append(Failure(path, directive.line, header, detail))
    return failures


def rewrite(path: Path) -> None:
    """Run a file and put the results into it.

    Raises:
        ScriptError: the file is not in the dialect.
    """
    directives, rest = script.parse(path.read_text(encoding="utf-8"))
    session = Session()
    for directive in directives:
        directive.expected = session.handle(directive).splitlines()
    script.write(path, directives, rest)


def _difference(directive: Directive, got: list[str]) -> str:
    expected, actual = normal(directive.expected), normal(got)
    if expected == actual:
        return ""
    diff = difflib.unified_diff(expected, actual, "expected", "actual", lineterm="")
    return "\n".join(diff)
