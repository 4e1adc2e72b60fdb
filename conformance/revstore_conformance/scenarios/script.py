"""Reading and writing scenario files.

A file is a sequence of directives::

    # Comment.
    command argument key=value key=(value, value)
    input lines
    ----
    expected output, up to a blank line

Output that has blank lines itself is between a double ``----`` and another double one.
A directive that ends in a backslash goes on in the next line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

SEPARATOR = "----"
_ARGUMENT = re.compile(r"([^\s=()]+)(=(?:\(([^)]*)\)|(\S*)))?")


class ScriptError(Exception):
    """The file is not in the dialect; the message says where and why."""


class Directive(msgspec.Struct):
    """One command with its input and expected output."""

    line: int
    """Number of its first line."""
    before: list[str]
    """Blank lines and comments in front of it."""
    header: list[str]
    command: str
    arguments: list[tuple[str, list[str]]]
    """Keys in order; a key without "=" has no values."""
    input: list[str]
    expected: list[str]

    def positional(self) -> list[str]:
        """Keys without values."""
        return [key for key, values in self.arguments if not values]

    def node(self) -> int:
        """The member id that comes first.

        Raises:
            ScriptError: there is none.
        """
        for key in self.positional():
            if key.isdecimal():
                return int(key)
            break
        raise ScriptError(f"line {self.line}: {self.command} needs a member id")

    def nodes(self) -> list[int]:
        """All member ids."""
        return [int(key) for key in self.positional() if key.isdecimal()]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each key with each of its values."""
        for key, values in self.arguments:
            for value in values:
                yield key, value

    def value(self, name: str) -> str:
        """The value of a key.

        Raises:
            ScriptError: it is not there.
        """
        for key, value in self.pairs():
            if key == name:
                return value
        raise ScriptError(f"line {self.line}: {self.command} needs {name}=")


def parse_arguments(text: str) -> list[tuple[str, list[str]]]:
    """``a b=c d=(e, f)`` as keys and values."""
    out: list[tuple[str, list[str]]] = []
    for match in _ARGUMENT.finditer(text):
        key, given, many, one = match.groups()
        if given is None:
            out.append((key, []))
        elif many is not None:
            out.append((key, [part for part in re.split(r"[,\s]+", many) if part]))
        else:
            out.append((key, [one]))
    return out


def parse(text: str) -> tuple[list[Directive], list[str]]:
    """Directives of a file, and the lines behind the last one.

    Raises:
        ScriptError: a directive has no separator.
    """
    lines = text.splitlines()
    directives: list[Directive] = []
    before: list[str] = []
    position = 0
    while position < len(lines):
        line = lines[position]
        if not line.strip() or line.startswith("#"):
            before.append(line)
            position += 1
            continue
        directive, position = _parse_directive(lines, position, before)
        directives.append(directive)
        before = []
    return directives, before


def _parse_directive(
    lines: list[str], start: int, before: list[str]
) -> tuple[Directive, int]:
    position = start
    header = [lines[position]]
    while header[-1].endswith("\\") and position + 1 < len(lines):
        position += 1
        header.append(lines[position])
    joined = " ".join(line.rstrip("\\") for line in header)
    command, _, rest = joined.strip().partition(" ")
    position += 1
    begin = position
    while position < len(lines) and lines[position] != SEPARATOR:
        position += 1
    if position == len(lines):
        raise ScriptError(f"line {start + 1}: no {SEPARATOR} behind {command!r}")
    given = lines[begin:position]
    expected, position = _parse_output(lines, position + 1)
    directive = Directive(
        start + 1, before, header, command, parse_arguments(rest), given, expected
    )
    return directive, position


def _parse_output(lines: list[str], start: int) -> tuple[list[str], int]:
    position = start
    if lines[position : position + 1] == [SEPARATOR]:
        position += 1
        begin = position
        while position < len(lines) and lines[position : position + 2] != [
            SEPARATOR,
            SEPARATOR,
        ]:
            position += 1
        return lines[begin:position], position + 2
    while position < len(lines) and lines[position].strip():
        position += 1
    return lines[start:position], position


def write(path: Path, directives: list[Directive], rest: list[str]) -> None:
    """Write directives back, with what is in ``expected``."""
    out: list[str] = []
    for directive in directives:
        out += [*directive.before, *directive.header, *directive.input, SEPARATOR]
        if any(not line.strip() for line in directive.expected):
            out += [SEPARATOR, *directive.expected, SEPARATOR, SEPARATOR]
        else:
            out += directive.expected
    path.write_text("\n".join([*out, *rest]) + "\n")
