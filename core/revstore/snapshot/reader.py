"""Reading a snapshot that waits in a file.

Rules of this file:

1. ``check_whole`` comes first: Arrow reads only bytes whose checksum was right.
2. Memory is bounded by one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from revstore.errors import CorruptionError, StorageError
from revstore.interfaces.backend import Pair
from revstore.snapshot import format as layout
from revstore.snapshot.format import Checker, SnapshotHeader
from revstore.snapshot.writer import checksum_of

PIECE_BYTES = 1 << 20


def check_whole(file: BinaryIO) -> int:
    """Check all bytes of a snapshot; returns the number of rows.

    The file is read to its end and put back to its beginning.

    Raises:
        CorruptionError: it is cut off or damaged.
        StorageError: it cannot be read.
    """
    checker = Checker()
    try:
        file.seek(0)
        while piece := file.read(PIECE_BYTES):
            checker.feed(piece)
        rows = checker.finish()
        file.seek(0)
    except OSError as exc:
        raise StorageError(f"the snapshot cannot be read: {exc}") from exc
    return rows


class SnapshotReader:
    """The rows of a snapshot, in order; of a file that ``check_whole`` approved."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the header.

        Raises:
            ConfigError: pyarrow is not installed.
            CorruptionError: it is no snapshot.
            FormatError: a newer revstore wrote it.
        """
        self._arrow = pa = layout.arrow()
        try:
            self._stream = pa.ipc.open_stream(file)
        except (pa.ArrowException, OSError) as exc:
            raise CorruptionError(f"this is no snapshot: {exc}") from exc
        metadata = self._stream.schema.metadata or {}
        self.header: SnapshotHeader = layout.decode_header(
            metadata.get(layout.METADATA, b"")
        )
        self.rows = 0
        """Rows handed out."""
        self.batch_bytes = 0
        """About what the rows handed out last have."""

    def batches(self) -> Iterator[tuple[str, list[Pair]]]:
        """(keyspace, rows) by (keyspace, rows), none of them empty.

        Raises:
            CorruptionError: the bytes are not those that were checked, or whoever
                wrote them made a mistake.
        """
        names = self.header.keyspaces
        last = 0
        while (found := self._next()) is not None:
            batch, metadata = found
            if metadata.get(layout.CHECKSUM) != b"%08x" % checksum_of(batch):
                raise CorruptionError(
                    f"the checksum of the batch behind row {self.rows} does not match"
                )
            number, pairs = self._rows_of(batch)
            if number >= len(names) or number < last:
                raise CorruptionError(
                    f"the batch behind row {self.rows} is of keyspace {number}, where "
                    f"{last} to {len(names) - 1} are possible"
                )
            last = number
            self.rows += len(pairs)
            self.batch_bytes = batch.nbytes
            yield names[number], pairs

    def _next(self) -> tuple[Any, dict[bytes, bytes]] | None:
        pa = self._arrow
        try:
            batch, metadata = self._stream.read_next_batch_with_custom_metadata()
            batch.validate(full=True)
        except StopIteration:
            return None
        except (pa.ArrowException, OSError) as exc:
            raise CorruptionError(
                f"the batch behind row {self.rows} cannot be read: {exc}"
            ) from exc
        return batch, dict(metadata or {})

    def _rows_of(self, batch: Any) -> tuple[int, list[Pair]]:
        numbers, keys, values = batch.columns
        found = numbers.unique().to_pylist()
        if len(found) != 1 or None in found or keys.null_count or values.null_count:
            raise CorruptionError(
                f"the batch behind row {self.rows} is not of one keyspace"
            )
        pairs = list(zip(keys.to_pylist(), values.to_pylist(), strict=True))
        return found[0], pairs

    def close(self) -> None:
        """Let go of Arrow's buffers; the file stays open. Raises: nothing."""
        self._stream.close()
