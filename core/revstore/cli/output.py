"""What the commands print, and how a failure ends the process.

Rules of this file:

1. Results go to stdout, warnings and errors to stderr.
2. An error is one clear line for each problem; a traceback only with --debug.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from typing import Any

import click

OK = 0
FAILURE = 1
USAGE = 2


def line(text: str) -> None:
    """A line of a result."""
    click.echo(text)


def warn(text: str) -> None:
    """A warning."""
    click.echo(f"warning: {text}", err=True)


def error(text: str) -> None:
    """An error; each line of it is one problem."""
    for part in text.splitlines() or [""]:
        click.echo(f"error: {part}", err=True)


def hint(text: str) -> None:
    """What can be done about an error."""
    click.echo(f"hint: {text}", err=True)


def show_traceback() -> bool:
    """Whether --debug or REVSTORE_DEBUG asks for tracebacks."""
    context = click.get_current_context(silent=True)
    asked = context is not None and bool(context.find_root().params.get("debug"))
    return asked or os.environ.get("REVSTORE_DEBUG", "") not in ("", "0")


def error_of(exc: BaseException, *, debug: bool) -> None:
    """What an exception has to say, with its traceback if ``debug``."""
    if debug:
        click.echo("".join(traceback.format_exception(exc)), err=True, nl=False)
    error(str(exc) or type(exc).__name__)


def json(value: Any) -> None:
    """A result as JSON, for programs."""
    import json as standard

    click.echo(standard.dumps(value, indent=2, default=str))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns under a header."""
    widths = [
        max(len(str(row[column])) for row in [header, *rows])
        for column in range(len(header))
    ]
    for row in [header, *rows]:
        cells = [
            str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)
        ]
        line("  ".join(cells).rstrip())


def warn_help(path: str) -> None:
    """Where to read on after a wrong command line."""
    click.echo(f"'{path} --help' explains the usage", err=True)
