"""The child process of the backend checks: what must not happen in the test's own.

    python -m revstore_conformance.backend_child COMMAND MODULE NAME OPTIONS DIRECTORY

``write LEVEL``  writes batches for ever and names each on its output when it is
                 acknowledged; the parent kills it.
``locked``       expects that the directory is open elsewhere.
``poison``       limits the size of files and expects B-11.
``fork``         forks while the backend is open and expects B-13.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from revstore.errors import LockedError, PoisonedError, StorageError
from revstore.interfaces.backend import Backend, Durability, WriteBatch
from revstore_conformance.backend_harness import (
    KEYSPACES,
    BackendHarness,
    contents,
    write_pairs,
)

WINDOW = 40
"""A batch deletes what the batch so many before it put."""

MIB = 1024 * 1024


def must(holds: bool, what: str) -> None:
    """Fail the child, and with it the check."""
    if not holds:
        raise AssertionError(what)


def crash_batch(number: int) -> WriteBatch:
    """The batch of a number: one row in each keyspace, an old one gone from each."""
    batch = WriteBatch()
    for at, name in enumerate(KEYSPACES):
        key = b"%08d" % number
        batch.put(name, key, key * (1 + 40 * at))
        if number >= WINDOW:
            batch.delete(name, b"%08d" % (number - WINDOW))
    return batch


def write_for_ever(backend: Backend, level: Durability) -> None:
    """Write numbered batches until killed, naming each once it is acknowledged."""
    number = 0
    while True:
        backend.write(crash_batch(number), level)
        os.write(1, b"%d\n" % number)
        number += 1


def expect_locked(harness: BackendHarness, directory: Path) -> None:
    """Opening what the parent has open raises LockedError."""
    try:
        harness.open(directory)
    except LockedError:
        return
    raise AssertionError("a second process could open the directory")


def expect_poison(harness: BackendHarness, directory: Path) -> None:
    """A file size limit makes a write fail; the backend refuses work until reopened."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    backend = harness.open(directory)
    write_pairs(backend, "alpha", [(b"kept", b"v")], Durability.SYNC)
    held = backend.snapshot()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, hard))
    failed = 0
    for number in range(100):
        try:
            pairs = [(b"%d" % number, os.urandom(MIB))]
            write_pairs(backend, "alpha", pairs, Durability.SYNC)
        except PoisonedError as exc:
            raise AssertionError("the first failure is no PoisonedError") from exc
        except StorageError:
            failed = number
            break
    must(failed > 0, "no write failed, though files were limited to 2 MiB")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    refused: tuple[Callable[[], object], ...] = (
        lambda: write_pairs(backend, "alpha", [(b"k", b"v")]),
        backend.sync,
        backend.snapshot,
    )
    for call in refused:
        try:
            call()
        except PoisonedError:
            continue
        raise AssertionError("a poisoned backend did work")
    must(held.get("alpha", b"kept") == b"v", "a snapshot from before must go on")
    backend.close()
    backend = harness.open(directory)
    found = [key for key, _ in contents(backend)["alpha"]]
    kept = {b"kept", *(b"%d" % number for number in range(failed))}
    must(kept <= set(found), f"acknowledged rows are gone: {kept - set(found)}")
    write_pairs(backend, "alpha", [(b"again", b"v")], Durability.SYNC)
    backend.close()


def expect_fork_guard(harness: BackendHarness, directory: Path) -> None:
    """A forked child is refused everything and leaves the parent's engine alone."""
    backend = harness.open(directory)
    rows = [(b"%04d" % number, b"v%d" % number) for number in range(200)]
    write_pairs(backend, "alpha", rows)
    snapshot = backend.snapshot()
    scan = snapshot.scan("alpha", b"", None, chunk=5)
    first = next(scan)
    pid = os.fork()
    if pid == 0:
        refused: tuple[Callable[[], object], ...] = (
            lambda: snapshot.get("alpha", b"0001"),
            lambda: snapshot.get_many("alpha", [b"0001"]),
            lambda: list(snapshot.scan("alpha", b"", None)),
            lambda: next(scan),
            lambda: write_pairs(backend, "alpha", [(b"k", b"child")]),
            backend.snapshot,
            backend.sync,
            backend.stats,
        )
        for call in refused:
            try:
                call()
            except StorageError as exc:
                must("fork" in str(exc), f"the message names no fork: {exc}")
                continue
            os._exit(3)
        snapshot.close()
        backend.close()
        del snapshot, scan, backend
        gc.collect()
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    must(status == 0, f"the forked child ended with status {status}")
    for number in range(50):
        write_pairs(backend, "alpha", [(b"0000", b"%d" % number)])
    seen = [*first, *(pair for one in scan for pair in one)]
    must(seen == rows, "the parent's scan was disturbed")
    must(snapshot.get("alpha", b"0000") == b"v0", "the parent's snapshot was disturbed")
    backend.close()
    if harness.capabilities.persistent:
        backend = harness.open(directory)
        must(len(contents(backend)["alpha"]) == 200, "rows are missing")
        backend.close()


def main(arguments: list[str]) -> int:
    """Run one command; 0 if all was as expected."""
    command, module, name, options, directory, *rest = arguments
    root = Path(directory)
    harness = BackendHarness(module, root, json.loads(options), name=name)
    if command == "write":
        write_for_ever(harness.open(root), Durability[rest[0]])
    elif command == "locked":
        expect_locked(harness, root)
    elif command == "poison":
        expect_poison(harness, root)
    elif command == "fork":
        expect_fork_guard(harness, root)
    else:
        raise ValueError(f"unknown command {command!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
