"""What can be configured of the log."""

from __future__ import annotations

import msgspec

from revstore.errors import ConfigError

SEGMENT_BYTES_MIN = 512
SEGMENT_BYTES_MAX = 1 << 30


class SegmentOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the plugin "segment"."""

    segment_bytes: int = 64 * 1024 * 1024
    """Length of a file, reserved when it is made."""
    tail_bytes_max: int = 32 * 1024 * 1024
    """How much of the newest entries is kept in memory."""
    sample_bytes: int = 64 * 1024
    """One place in the files is remembered for about so many bytes of entries."""
    unsafe_no_fsync: bool = False
    """Skip every sync: a power cut then loses or damages what was acknowledged."""

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: a value is out of its range.
        """
        for name, value, low, high in (
            (
                "segment_bytes",
                self.segment_bytes,
                SEGMENT_BYTES_MIN,
                SEGMENT_BYTES_MAX,
            ),
            ("tail_bytes_max", self.tail_bytes_max, 0, 1 << 40),
            ("sample_bytes", self.sample_bytes, 1, SEGMENT_BYTES_MAX),
        ):
            if not low <= value <= high:
                raise ConfigError(
                    f"wal option {name} is {value}: choose {low} to {high}"
                )
