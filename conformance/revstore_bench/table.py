"""``python -m revstore_bench.table``: gRPC at full speed, all loads beside etcd.

Rules of this file:

1. One load after the other: what a load needs runs only while it is measured. Within a
   load both servers take turns in going first.
2. Every load checks what it is answered. One that fails has no figures, only a reason.
3. At the top stands the way of a request through our server, stage by stage.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from revstore_bench.budget import BudgetCase
from revstore_bench.grpc import TLS_LOADS, GrpcCase
from revstore_bench.idle import QUICK_SIZE, STANDARD_SIZE, IdleCase
from revstore_bench.model import QUICK, STANDARD, Case, Scale
from revstore_bench.ranging import RangingCase
from revstore_bench.report import Report, publish
from revstore_bench.run import Say, run, say
from revstore_bench.trio import TrioCase
from revstore_bench.watching import WatchingCase

Make = Callable[[Path], Case]

RANGE_KEYS = 10_000


def makers(scale: Scale, flags: Sequence[str]) -> dict[str, Make]:
    """How each case is made, in the order of the table."""
    quick = scale.name != STANDARD.name
    puts, ranges = (1000, 10) if quick else (5000, 40)
    size = QUICK_SIZE if quick else STANDARD_SIZE
    return {
        "budget": lambda place: BudgetCase(scale, place, flags),
        "one": lambda place: GrpcCase(scale, place, flags, "one member"),
        "three": lambda place: TrioCase(scale, place, flags),
        "watch": lambda place: WatchingCase(scale, place, flags, 1000, 1000, puts),
        "watch-few": lambda place: WatchingCase(
            scale, place, flags, 100, 1000, puts, judged=False
        ),
        "idle": lambda place: IdleCase(scale, place, flags, size),
        "range": lambda place: RangingCase(scale, place, flags, RANGE_KEYS, ranges),
        "tls": lambda place: GrpcCase(
            scale, place, flags, "one member, TLS", TLS_LOADS
        ),
    }


def run_all(made: dict[str, Make], scale: Scale, directory: Path, say: Say) -> Report:
    """Every case by itself; the machine is described as it was before the first."""
    reports = []
    for name, make in made.items():
        place = directory / name
        reports.append(run([make(place)], scale, directory, say))
    cases = [case for report in reports for case in report.cases]
    return msgspec.structs.replace(reports[0], cases=cases)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; 0 even where a target does not hold."""
    parser = argparse.ArgumentParser(prog="revstore_bench.table", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one rough repetition")
    parser.add_argument(
        "--only", action="append", default=[], help="this case; may be repeated"
    )
    parser.add_argument("--repetitions", type=int, help="instead of the scale's")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--directory", type=Path, help="where data goes meanwhile")
    parser.add_argument(
        "--flag", action="append", default=[], help="more for revstore serve"
    )
    options = parser.parse_args(arguments)
    scale = QUICK if options.quick else STANDARD
    if options.repetitions is not None:
        scale = msgspec.structs.replace(scale, repetitions=options.repetitions)
    made = makers(scale, ["--transport=grpc", *options.flag])
    unknown = set(options.only) - set(made)
    if unknown:
        parser.error(f"no case is named {', '.join(sorted(unknown))}; see --list")
    chosen = {k: v for k, v in made.items() if not options.only or k in options.only}
    if options.list:
        sys.stdout.write("".join(f"{name}\n" for name in chosen))
        return 0
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-") as path:
        report = run_all(chosen, scale, Path(path), say)
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
