"""A transaction that only sets keys, built and applied without message objects.

Rules of this file:

1. The bytes are those of an ordinary TxnRequest: the log, other members and a replay
   see nothing special.
2. ``PlainPuts`` is what the bytes say, for the member that made them. Whoever needs the
   message, such as a permission check, parses it from the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from revstore.api import errors
from revstore.mvcc.write import Put
from revstore.proto import rpc_pb2
from revstore.proto.varint import varint

Frame = tuple[bytes, bytes]

_KEY_FIELD = b"\x0a"
_VALUE_FIELD = b"\x12"
_PUT_FIELD = b"\x12"
_SUCCESS_FIELD = b"\x12"


class PlainPuts:
    """A TxnRequest without compares whose success branch sets keys to values."""

    __slots__ = ("items", "payload")

    def __init__(self, items: list[Put]) -> None:
        self.items = items
        """Key, value and 0 of each."""
        self.payload = encode_puts(items)
        """The request's bytes."""

    def message(self) -> rpc_pb2.TxnRequest:
        """The request as a message."""
        return rpc_pb2.TxnRequest.FromString(self.payload)


def check_puts(items: Sequence[Put], max_ops: int) -> None:
    """What ``validate.check_txn_request`` checks, for plain puts.

    Raises:
        ApiError: TOO_MANY_OPS, EMPTY_KEY or DUPLICATE_KEY.
    """
    if len(items) > max_ops:
        raise errors.TOO_MANY_OPS.fresh()
    keys = {item[0] for item in items}
    if b"" in keys:
        raise errors.EMPTY_KEY.fresh()
    if len(keys) != len(items):
        raise errors.DUPLICATE_KEY.fresh()


def encode_puts(items: Sequence[Put]) -> bytes:
    """The bytes of the TxnRequest.

    What surrounds key and value depends on their sizes only, and the sizes in one
    transaction mostly repeat.
    """
    frames: dict[tuple[int, int], Frame] = {}
    parts: list[bytes] = []
    for key, value, _ in items:
        sizes = (len(key), len(value))
        frame = frames.get(sizes)
        if frame is None:
            frame = frames[sizes] = _frame(*sizes)
        parts += (frame[0], key, frame[1], value)
    return b"".join(parts)


def _frame(key_size: int, value_size: int) -> Frame:
    """What stands before the key, and between key and value."""
    head = _KEY_FIELD + varint(key_size)
    middle = _VALUE_FIELD + varint(value_size) if value_size else b""
    put_size = len(head) + key_size + len(middle) + value_size
    put = _PUT_FIELD + varint(put_size)
    op = _SUCCESS_FIELD + varint(len(put) + put_size)
    return op + put + head, middle
