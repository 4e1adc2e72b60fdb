"""Durations in Go's syntax: ``300ms``, ``1.5h``, ``2h45m``.

Values are whole nanoseconds here, as in Go; the configuration turns them into
seconds. ``format_duration`` writes what Go's ``Duration.String`` writes, and
``parse_duration`` reads it back exactly.
"""

from __future__ import annotations

import re
from fractions import Fraction

NANOSECONDS = 1_000_000_000
"""In one second."""

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": NANOSECONDS,
    "m": 60 * NANOSECONDS,
    "h": 3600 * NANOSECONDS,
}
_PART = re.compile(r"(?a:(\d+\.?\d*|\.\d+))(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_LIMIT = 2**63
"""Go keeps a duration in a signed 64-bit integer."""


def parse_duration(text: str) -> int:
    """The nanoseconds that a duration in Go's syntax means.

    Raises:
        ValueError: it is no such duration; the message says what one looks like.
    """
    sign, rest = 1, text
    if rest[:1] in ("-", "+"):
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0
    total = Fraction(0)
    position = 0
    while match := _PART.match(rest, position):
        total += int(Fraction(_padded(match.group(1))) * _UNITS[match.group(2)])
        position = match.end()
    if not rest or position != len(rest):
        raise ValueError(
            f"{text!r} is no duration; write a number with a unit (ns, us, ms, s, m, h), "
            "for example 100ms, 5s or 1h30m"
        )
    nanoseconds = sign * int(total)
    if not -_LIMIT <= nanoseconds < _LIMIT:
        raise ValueError(f"the duration {text!r} is too long")
    return nanoseconds


def _padded(number: str) -> str:
    """``.5`` and ``5.`` in a form that Fraction reads."""
    whole, _, part = number.partition(".")
    return f"{whole or '0'}.{part or '0'}"


def format_duration(nanoseconds: int) -> str:
    """The duration as Go prints it. Raises: nothing."""
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    rest = abs(nanoseconds)
    for unit in ("ns", "\u00b5s", "ms"):
        size = _UNITS[unit]
        if rest < size * 1000:
            return f"{sign}{_decimal(rest, size)}{unit}"
    hours, rest = divmod(rest, _UNITS["h"])
    minutes, rest = divmod(rest, _UNITS["m"])
    seconds = f"{_decimal(rest, NANOSECONDS)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    if minutes:
        return f"{sign}{minutes}m{seconds}"
    return f"{sign}{seconds}"


def _decimal(amount: int, size: int) -> str:
    whole, rest = divmod(amount, size)
    if rest == 0:
        return str(whole)
    digits = len(str(size)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0")


def seconds_of(text: str) -> float:
    """The seconds that a duration in Go's syntax means.

    Raises:
        ValueError: as for ``parse_duration``.
    """
    return parse_duration(text) / NANOSECONDS


def text_of(seconds: float) -> str:
    """The shortest usual form: ``2h``, ``1m30s``, ``100ms``. Raises: nothing."""
    text = format_duration(round(seconds * NANOSECONDS))
    text = re.sub(r"m0s$", "m", text)
    return re.sub(r"h0m$", "h", text)
