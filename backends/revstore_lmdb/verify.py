"""The check of an LMDB store: the engine's pages, then the layers of long keys."""

from __future__ import annotations

from pathlib import Path

import lmdb
from lmdb.verify import VerifyError, verify

from revstore_lmdb.layers import (
    DIRECT_BYTES_MAX,
    ID_BYTES,
    MARKER_BYTES,
    NEXT_ID_ROW,
    Keyspace,
)


def find_faults(
    directory: Path, txn: lmdb.Transaction[bytes], spaces: dict[str, Keyspace]
) -> list[str]:
    """One line a fault; nobody may write meanwhile.

    Raises:
        lmdb.Error: a row could not be read.
        OSError: the file could not be read.
    """
    try:
        findings = verify(str(directory))  # type: ignore[no-untyped-call] # no stubs
        faults = list(map(str, findings))
    except VerifyError as exc:
        faults = [str(exc)]
    for name, space in spaces.items():
        faults += [f"keyspace {name}: {fault}" for fault in _layer_faults(txn, space)]
    return faults


def _layer_faults(txn: lmdb.Transaction[bytes], space: Keyspace) -> list[str]:
    faults = []
    named: list[bytes] = []
    for database in (space.rows, space.layers):
        with txn.cursor(database) as cursor:
            for row, value in cursor.iternext(True, True):
                if len(row) > MARKER_BYTES:
                    faults.append(f"a row of {len(row)} bytes")
                elif len(row) > DIRECT_BYTES_MAX:
                    named.append(value)
    held: set[bytes] = set()
    with txn.cursor(space.layers) as cursor:
        for row in cursor.iternext(True, False):
            held.add(row[:ID_BYTES])
    held.discard(bytes(ID_BYTES))
    if len(set(named)) != len(named):
        faults.append("two markers name one layer")
    faults += [f"layer {one.hex()} is empty" for one in sorted(set(named) - held)]
    faults += [f"layer {one.hex()} has no marker" for one in sorted(held - set(named))]
    if held and max(held) >= txn.get(NEXT_ID_ROW, b"", space.layers):
        faults.append("the next layer id was used before")
    return faults
