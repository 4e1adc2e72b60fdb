"""Command line of the scenario replay."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from revstore_conformance.scenarios.replay import find_files, replay, rewrite


def main(arguments: list[str] | None = None) -> int:
    """Replay the files named; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m revstore_conformance.scenarios",
        description="Replay transcripts of Raft scenarios.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument(
        "--rewrite",
        action="store_true",
        help="put what happened into the files; read the diff before you keep it",
    )
    options = parser.parse_args(arguments)
    out = sys.stdout.write
    passed = failed = 0
    for path in find_files(options.paths):
        if options.rewrite:
            rewrite(path)
        failures = replay(path)
        for failure in failures:
            out(f"{failure}\n")
        if failures:
            failed += 1
        else:
            passed += 1
    out(f"{passed} passed, {failed} failed\n")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
