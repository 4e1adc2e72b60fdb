"""The one row of META: which state the other keyspaces hold.

Rules of this file:

1. The row is written in the same atomic batch as the effects that it describes.
2. A reader refuses a format newer than its own and accepts older ones.
"""

from __future__ import annotations

import msgspec

from revstore.errors import CorruptionError, FormatError

FORMAT = 1
STATE_KEY = b"state"


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """What a flush wrote.

    Invariant: finished <= compact_revision <= revision; pending ascends and ends with
    compact_revision, if there is anything in it.
    """

    format: int = FORMAT
    applied_index: int = 0
    applied_term: int = 0
    revision: int = 1
    compact_revision: int = -1
    finished: int = -1
    """Physically compacted up to here: later compactions need not look below."""
    pending: tuple[tuple[int, int], ...] = ()
    """Compactions whose rows are not all deleted yet: the compact revision before, and
    the one wanted."""
    deleting: bool = False
    """Whether the first pending compaction may have deleted rows already."""


class _Version(msgspec.Struct):
    format: int


encode_state = msgspec.json.Encoder().encode
"""The row of META for a ``StoreState``."""

_decode = msgspec.json.Decoder(StoreState).decode
_decode_version = msgspec.json.Decoder(_Version).decode


def decode_state(row: bytes) -> StoreState:
    """Read the row of META.

    Raises:
        FormatError: a newer revstore wrote it.
        CorruptionError: it is not what any revstore writes.
    """
    try:
        version = _decode_version(row).format
        if version > FORMAT:
            raise FormatError(
                f"the store has data format {version}, this revstore reads up to"
                f" {FORMAT}: use the revstore that wrote it, or a newer one"
            )
        return _decode(row)
    except msgspec.MsgspecError as exc:
        raise CorruptionError(f"meta row {row[:80]!r} cannot be read: {exc}") from exc
