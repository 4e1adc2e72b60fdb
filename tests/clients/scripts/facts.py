"""What a session found, to be compared; needs nothing but the standard library."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any


class Facts:
    """Named facts in the order they were found; each name once."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def __call__(self, name: str, value: object) -> None:
        """Note a fact."""
        assert name not in self._found, name
        self._found[name] = _plain(value)

    def raises(self, name: str, error: BaseException) -> None:
        """Note which error a call raised, with the server's words if it has them."""
        details = getattr(error, "details", None)
        words = details() if callable(details) else ""
        self(name, [type(error).__name__, words])

    def write(self) -> None:
        """Hand everything to whoever started this program."""
        sys.stdout.write(json.dumps(self._found) + "\n")


def pair(one: Any) -> list[Any]:
    """A key-value pair without its lease, whose id is random."""
    return [one.key, one.value, one.create_revision, one.mod_revision, one.version]


def _plain(value: object) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)) or (
        isinstance(value, Iterable) and not isinstance(value, str)
    ):
        return [_plain(one) for one in value]
    return value
