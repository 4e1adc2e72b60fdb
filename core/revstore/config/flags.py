"""Reading a command line as Go's flag package does.

``-name value``, ``--name value``, ``--name=value``; a boolean flag stands alone or
takes its value behind ``=``. ``--`` ends the flags. The last one of a name wins, only
``--set`` gathers.
"""

from __future__ import annotations

from collections.abc import Sequence

from revstore.config.settings import is_switch, known_names, similar_name
from revstore.errors import UsageError

GATHERED = "set"


def parse_flags(arguments: Sequence[str]) -> dict[str, str | list[str]]:
    """Flag names, without dashes, and their texts.

    Raises:
        UsageError: an unknown flag, a missing value or a stray argument; the message
            names it.
    """
    known = frozenset(known_names())
    flags: dict[str, str | list[str]] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            stray = rest[0] if word == "--" and rest else word
            if word == "--" and not rest:
                break
            raise UsageError(
                f"{stray!r} is not a flag; a boolean takes its value behind '=', "
                "for example --pre-vote=false"
            )
        word = "--help" if word == "-h" else word
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if name not in known:
            raise UsageError(
                f"there is no flag --{name}{similar_name(name, '--')} "
                "('revstore serve --help' lists all)"
            )
        if not equals:
            if is_switch(name):
                value = "true"
            elif rest:
                value = rest.pop(0)
            else:
                raise UsageError(f"the flag --{name} needs a value: --{name}=VALUE")
        _store(flags, name, value)
    return flags


def _store(flags: dict[str, str | list[str]], name: str, value: str) -> None:
    if name != GATHERED:
        flags[name] = value
        return
    gathered = flags.setdefault(name, [])
    assert isinstance(gathered, list)
    gathered.append(value)
