"""How large entries are, in the two measures that limits use.

Rules of this file:

1. *Payload* is the data alone. It bounds what a leader accepts and what is in flight:
   an empty entry weighs nothing, so it can never be refused.
2. *Encoded size* is what etcd's writer makes of an entry (raftpb.Entry). It bounds
   messages and what is handed out to be applied.
3. Both are taken for a batch at once: the cost for one entry is that of one ``len``.
"""

from __future__ import annotations

from collections.abc import Sequence

from revstore.types import Entry
from revstore_raft.limits import NO_LIMIT

_FRAME_BYTES_MAX = 32
"""No entry's encoding exceeds its data by more."""


def payload_size(entries: Sequence[Entry]) -> int:
    """Bytes of data in the entries."""
    if len(entries) == 1:
        return len(entries[0].data)
    return sum([len(entry.data) for entry in entries])


def _varint_size(number: int) -> int:
    return (number.bit_length() + 6) // 7 or 1


def entry_size(entry: Entry) -> int:
    """Encoded bytes of one entry."""
    # Written out without ``_varint_size``: it is on the way of each single write.
    data = len(entry.data)
    size = data + 4 + ((entry.term.bit_length() + 6) // 7 or 1)
    size += (entry.index.bit_length() + 6) // 7 or 1
    return size + 1 + (data.bit_length() + 6) // 7 if data else size


def entries_size(entries: Sequence[Entry]) -> int:
    """Encoded bytes of the entries, which are consecutive."""
    if len(entries) < 2:
        return entry_size(entries[0]) if entries else 0
    first, last = entries[0], entries[-1]
    lengths = [len(entry.data) for entry in entries]
    frame = 4 + _varint_size(last.term) + _varint_size(last.index)
    field = 1 + _varint_size(min(lengths))
    alike = (
        first.term == last.term
        and frame == 4 + _varint_size(first.term) + _varint_size(first.index)
        and field == 1 + _varint_size(max(lengths))
        and min(lengths) > 0
    )
    if alike:
        return sum(lengths) + len(entries) * (frame + field)
    return sum([entry_size(entry) for entry in entries])


def limit_size(entries: Sequence[Entry], bytes_max: int) -> Sequence[Entry]:
    """The longest start of ``entries`` that fits, at least one entry."""
    count = len(entries)
    if bytes_max >= NO_LIMIT or count <= 1:
        return entries
    if payload_size(entries) + count * _FRAME_BYTES_MAX <= bytes_max:
        return entries
    size = entry_size(entries[0])
    for position in range(1, count):
        size += entry_size(entries[position])
        if size > bytes_max:
            return entries[:position]
    return entries
