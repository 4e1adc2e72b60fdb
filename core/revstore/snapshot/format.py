"""The format of a snapshot: an Arrow IPC stream, then a footer.

::

    schema      keyspace uint8, key binary, value binary, none of them null; metadata
                "revstore": the JSON of a ``SnapshotHeader``
    batches     rows of one keyspace each, about 1 MiB; metadata "crc32c" of each: the
                checksum of its columns' buffers, eight hexadecimal digits
    end         Arrow's own end of a stream
    footer      magic (8)  rows (8)  CRC-32C of all bytes before it (4), big endian

Keyspaces come in the header's order and rows ascend within one; META comes last. Any
Arrow reader can read the file, since readers stop at the stream's end.

Rules of this file:

1. The footer's checksum is checked before Arrow sees any of the bytes; a batch's
   checksum is checked again where its rows are used.
2. What a snapshot says of itself (applied index, membership) is what it holds.
3. pyarrow is imported when it is needed, since that takes long and a member without
   others needs none.
"""

from __future__ import annotations

from importlib.util import find_spec
from struct import Struct
from types import ModuleType

import google_crc32c
import msgspec

from revstore.errors import ConfigError, CorruptionError, FormatError
from revstore.mvcc.tables import KEYSPACES, META
from revstore.types import ConfState, SnapshotMeta

FORMAT = 1
MAGIC = b"RVSTSNAP"
METADATA = b"revstore"
"""Key of the header in the schema's metadata."""
CHECKSUM = b"crc32c"
"""Key of a batch's checksum in its metadata."""
BATCH_BYTES = 1 << 20
"""A batch is closed when its keys and values reach this."""
SPACES: tuple[str, ...] = (*(name for name in KEYSPACES if name != META), META)
"""The keyspaces in the order in which they travel."""

_FOOTER = Struct(">8sQI")
FOOTER_BYTES = _FOOTER.size
CRC_BYTES = 4


class SnapshotHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot says about itself."""

    format: int = FORMAT
    version: str
    """Version of the API of who wrote it."""
    cluster_id: int
    member_id: int
    """Who wrote it."""
    index: int
    """Everything up to this entry is in it."""
    term: int
    conf_state: ConfState
    revision: int
    compact_revision: int
    keyspaces: tuple[str, ...] = SPACES

    @property
    def meta(self) -> SnapshotMeta:
        """Its place in the log."""
        return SnapshotMeta(self.index, self.term, self.conf_state)


MISSING = (
    "a cluster of several members needs pyarrow for its snapshots; install it with: "
    "pip install 'revstore[arrow]'"
)


def require_arrow() -> None:
    """See that pyarrow is there, without importing it (rule 3).

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("pyarrow") is None:
        raise ConfigError(MISSING)


def arrow() -> ModuleType:
    """The module pyarrow.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as exc:
        raise ConfigError(MISSING) from exc
    found: ModuleType = pyarrow
    return found


def encode_header(header: SnapshotHeader) -> bytes:
    """The header's bytes. Raises: nothing."""
    return msgspec.json.encode(header)


class _Version(msgspec.Struct):
    format: int
    version: str


def decode_header(data: bytes) -> SnapshotHeader:
    """The header of a snapshot.

    Raises:
        CorruptionError: it cannot be read.
        FormatError: a newer revstore wrote it.
    """
    try:
        written = msgspec.json.decode(data, type=_Version)
        if written.format > FORMAT:
            raise FormatError(
                f"the snapshot has format {written.format}, this member reads up to "
                f"{FORMAT}; run the same version on all members ({written.version} "
                "wrote it)"
            )
        header = msgspec.json.decode(data, type=SnapshotHeader)
    except msgspec.MsgspecError as exc:
        raise CorruptionError(f"the snapshot's header cannot be read: {exc}") from exc
    unknown = [name for name in header.keyspaces if name not in SPACES]
    if unknown:
        raise FormatError(
            f"the snapshot has keyspaces that this member does not know: {unknown}; "
            f"run the same version on all members ({header.version} wrote it)"
        )
    return header


def footer(rows: int, crc: int) -> bytes:
    """What stands behind an Arrow stream with that checksum. Raises: nothing."""
    start = _FOOTER.pack(MAGIC, rows, 0)[:-CRC_BYTES]
    end: int = google_crc32c.extend(crc, start)
    return start + end.to_bytes(CRC_BYTES, "big")


class Checker:
    """Checks the bytes of a snapshot as they come, in any pieces (rule 1)."""

    def __init__(self) -> None:
        self._crc = 0
        self._tail = b""
        self.bytes = 0
        """Bytes seen."""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes. Raises: nothing."""
        self.bytes += len(piece)
        if len(piece) >= FOOTER_BYTES:
            self._crc = google_crc32c.extend(self._crc, self._tail)
            self._crc = google_crc32c.extend(self._crc, bytes(piece[:-FOOTER_BYTES]))
            self._tail = bytes(piece[-FOOTER_BYTES:])
            return
        both = self._tail + piece
        self._crc = google_crc32c.extend(self._crc, both[:-FOOTER_BYTES])
        self._tail = both[-FOOTER_BYTES:]

    def finish(self) -> int:
        """The number of rows; to be called after the last piece.

        Raises:
            CorruptionError: the snapshot is cut off or damaged.
        """
        if not self._tail.startswith(MAGIC) or len(self._tail) < FOOTER_BYTES:
            raise CorruptionError(
                f"the snapshot is cut off: its {self.bytes} bytes end without a footer"
            )
        _, rows, crc = _FOOTER.unpack(self._tail)
        found = google_crc32c.extend(self._crc, self._tail[:-CRC_BYTES])
        if crc != found:
            raise CorruptionError(
                f"the snapshot of {self.bytes} bytes is damaged: its checksum is "
                f"{found:08x} instead of {crc:08x}"
            )
        count: int = rows
        return count
