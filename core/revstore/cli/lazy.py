"""Groups of commands that are imported when they are used, so that help comes quickly."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A group made from a table of its commands.

    ``table`` has for each name where the command is ("module:name", the module within
    ``revstore.cli``) and its line in the help, in the order of the help.
    """

    def __init__(
        self, *, table: Mapping[str, tuple[str, str]], **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or None."""
        entry = self._table.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry[0].partition(":")
        found: click.Command = getattr(
            importlib.import_module(f"revstore.cli.{module}"), name
        )
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a hint at similar names."""
        if args and args[0] not in self._table and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], self._table, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise click.UsageError(
                f"there is no command {args[0]!r}; {hint}the commands are "
                f"{', '.join(self._table)}",
                ctx,
            )
        return super().resolve_command(ctx, args)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, line) for name, (_, line) in self._table.items()]
            )
