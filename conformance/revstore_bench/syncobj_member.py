"""One member of a PySyncObj cluster, which loads itself if it leads; see ``cluster``.

A put is a replicated method that sets a key of a dictionary, the shape of its
documentation. It is volatile: nothing is written to disk.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated

from revstore_bench.workload import make_key, make_value


class Store(SyncObj):  # type: ignore[misc]  # the library has no types
    """A dictionary on every member."""

    def __init__(self, own: str, others: list[str]) -> None:
        super().__init__(own, others, SyncObjConf(dynamicMembershipChange=False))
        self.data: dict[bytes, bytes] = {}

    @replicated  # type: ignore[untyped-decorator]  # the library has no types
    def put(self, key: bytes, value: bytes) -> None:
        """Set a key."""
        self.data[key] = value


def load(store: Store, calls: int, in_flight: int) -> float:
    """Puts a second, from callbacks on the leader."""
    value, done, begun = make_value(), 0, 0
    begin = time.perf_counter()

    def finished(result: Any, error: Any) -> None:
        nonlocal done
        done += 1

    while done < calls:
        while begun < calls and begun - done < in_flight:
            store.put(make_key(begun), value, callback=finished)
            begun += 1
        time.sleep(0.0005)
    return calls / (time.perf_counter() - begin)


def main(own: str, others: list[str], calls: int, in_flight: int) -> None:
    """Run until the parent ends the process; the leader prints its rate."""
    store = Store(own, others)
    loaded = False
    while True:
        time.sleep(0.05)
        if not loaded and store.isReady() and store._isLeader():
            loaded = True
            sys.stdout.write(f"rate {load(store, calls, in_flight):.1f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]), int(sys.argv[4]))
