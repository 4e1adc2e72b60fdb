"""Which keys a command is about: one, a range, a prefix, or all from one on."""

from __future__ import annotations

from typing import Any

import click

from revstore.cli.ctl_options import Function
from revstore.errors import UsageError


def key_arguments(function: Function) -> Function:
    """Give a command the arguments and flags that ``span_of`` takes."""
    for decorate in (
        click.option("--from-key", is_flag=True, help="All keys from this one on."),
        click.option("--prefix", is_flag=True, help="All keys that begin so."),
        click.argument("range_end", required=False),
        click.argument("key"),
    ):
        function = decorate(function)
    return function


def span_of(
    key: str, range_end: str | None, prefix: bool, from_key: bool
) -> dict[str, Any]:
    """They as the client's methods take them. Raises: UsageError: too many are given."""
    if sum((prefix, from_key, range_end is not None)) > 1:
        raise UsageError("give one of: a range end, --prefix, --from-key")
    if prefix:
        return {"prefix": key}
    return {"key": key, "end": b"\x00" if from_key else range_end}
