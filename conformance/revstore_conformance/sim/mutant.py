"""What a mutant is: a few functions that are replaced while a run lasts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

Patch = tuple[Any, str, Any]


_SLIP = re.compile(r"\b(TypeError|AttributeError|NameError)[(:]")


def broke_down(text: str) -> bool:
    """Whether what a run ended with says that the variant itself cannot run.

    The code that it replaces has changed; its fault was not tried.
    """
    return _SLIP.search(text) is not None


class Mutant(msgspec.Struct, frozen=True):
    """One faulty variant."""

    name: str
    fault: str
    """What is wrong with it, in a sentence."""
    patches: Callable[[], Sequence[Patch]]
    profile: str = "standard"
    """The profile under which it is looked for."""
    seeds: tuple[int, ...] = ()
    """Seeds to try first, because they are known to catch it."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The variant is in force inside."""
        saved = []
        for owner, name, replacement in self.patches():
            saved.append((owner, name, owner.__dict__[name]))
            setattr(owner, name, replacement)
        try:
            yield
        finally:
            for owner, name, original in reversed(saved):
                setattr(owner, name, original)
