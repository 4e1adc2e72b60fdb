"""``python -m revstore_bench``: the figures, on this machine, beside their targets."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from revstore_bench.cases import all_cases
from revstore_bench.model import QUICK, STANDARD
from revstore_bench.report import publish
from revstore_bench.run import run, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; 0 even where a target does not hold."""
    parser = argparse.ArgumentParser(prog="revstore_bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, rough")
    parser.add_argument("--only", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--directory", type=Path, help="where data goes meanwhile")
    parser.add_argument("--list", action="store_true", help="name the cases")
    options = parser.parse_args(arguments)
    scale = QUICK if options.quick else STANDARD
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-") as path:
        directory = Path(path)
        cases = [
            case
            for case in all_cases(scale, directory)
            if options.only is None or options.only in case.name
        ]
        if not cases:
            parser.error(f"no case has {options.only!r} in its name; see --list")
        if options.list:
            sys.stdout.write("".join(f"{case.name}\n" for case in cases))
            return 0
        report = run(cases, scale, directory, say)
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
