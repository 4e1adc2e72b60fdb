"""What bad input to header compression raises."""

from __future__ import annotations


class HpackError(Exception):
    """A header block is not valid; the connection that it came on must end.

    RFC 9113, section 4.3: COMPRESSION_ERROR.
    """


class HeaderListTooLargeError(HpackError):
    """The fields of one block are larger together than is taken.

    The block was valid and the table is in step, so that only its stream must be
    refused and the connection can go on.
    """
