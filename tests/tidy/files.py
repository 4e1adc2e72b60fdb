"""The files of the repository, as the tidy tests see them."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ROOTS = ("core", "plugins", "backends", "transports", "conformance")


@cache
def tracked() -> tuple[Path, ...]:
    """Files that git knows, or the ones on disk where there is no git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, check=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        found = (path for root in (*ROOTS, "tests", "docs") for path in _walk(root))
        return tuple(sorted(found))
    names = sorted(name for name in listed.split("\0") if name)
    return tuple(path for name in names if (path := REPOSITORY / name).is_file())


def _walk(root: str) -> list[Path]:
    return [path for path in (REPOSITORY / root).rglob("*") if path.is_file()]


def relative(path: Path) -> str:
    """The path within the repository."""
    return path.relative_to(REPOSITORY).as_posix()


@cache
def python_files() -> tuple[Path, ...]:
    """Hand-written Python files."""
    return tuple(
        path
        for path in tracked()
        if path.suffix == ".py" and not path.stem.endswith("_pb2")
    )


@cache
def source_files() -> tuple[Path, ...]:
    """Hand-written Python files of the packages, tests left out."""
    return tuple(path for path in python_files() if relative(path).startswith(ROOTS))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def packages() -> list[Path]:
    """The import packages in the source roots."""
    return sorted(
        folder
        for root in ROOTS
        for folder in (REPOSITORY / root).iterdir()
        if (folder / "__init__.py").exists()
    )
