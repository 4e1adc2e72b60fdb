"""What a process that is going to be killed says, as frames on a pipe.

A frame is a length and a value; one that a kill cut short was never said.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from tests.crash.model import Facts

_LENGTH = struct.Struct("<I")


class Begin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A request is about to be made."""

    writer: int
    number: int
    tag: int
    payload: bytes


class Done(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """It was acknowledged; ``revision`` is 0 if the answer has none."""

    writer: int
    number: int
    revision: int


class Seen(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A watcher got a change."""

    revision: int
    key: bytes
    deleted: bool


class Opened(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The store was opened, and this is what it holds."""

    facts: Facts
    events: list[Seen]
    """Since the revision that was asked for."""
    pairs: dict[bytes, bytes]
    """The live pairs of the sums."""
    calls: int
    """Function calls that opening took."""


class Closed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The store was closed in good order."""


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Something that must not happen did."""

    text: str


Frame = Begin | Done | Seen | Opened | Closed | Failed

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


class Speaker:
    """Writes frames; from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def say(self, frame: Any) -> None:
        """Write one frame, whole."""
        data = _encode(frame)
        data = _LENGTH.pack(len(data)) + data
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]


def split_frames(data: bytes) -> Iterator[Frame]:
    """The whole frames in what was read."""
    position = 0
    while position + 4 <= len(data):
        (size,) = _LENGTH.unpack_from(data, position)
        position += 4
        if position + size > len(data):
            return
        yield _decode(data[position : position + size])
        position += size
