"""``revstore config``: look at a configuration without running a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from revstore.cli import output

if TYPE_CHECKING:
    from revstore.config import LoadedConfig

RAW_ARGUMENTS = {"ignore_unknown_options": True, "help_option_names": []}
"""Go's way of writing flags is not click's; the words are read by ``parse_flags``."""


@click.group(help="Check and show configurations.")
def config() -> None:
    """The group of configuration commands."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> int:
    """Check a TOML file and tell everything that is wrong with it.

    Looks at the file alone: no flag and no variable counts. Exits with 1 if
    anything is wrong.
    """
    from revstore.config import load_config
    from revstore.config.plugins import plugin_problems
    from revstore.errors import ConfigError
    from revstore.plugin.manager import PluginManager

    try:
        loaded = load_config({}, {}, file)
        problems = plugin_problems(loaded, PluginManager())
    except ConfigError as exc:
        output.error(str(exc))
        return output.FAILURE
    _print_warnings(loaded)
    if problems:
        output.error("\n".join(problems))
        return output.FAILURE
    output.line(f"{file}: ok")
    return output.OK


@config.command(context_settings=RAW_ARGUMENTS)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def show(flags: tuple[str, ...]) -> int:
    """Show the effective settings and where each comes from."""
    from revstore.config import load_config, parse_flags

    words = [flag for flag in flags if flag not in ("--json", "-json")]
    parsed = parse_flags(words)
    if "help" in parsed:
        output.line(_SHOW_HELP)
        return output.OK
    loaded = load_config(parsed)
    if len(words) < len(flags):
        output.json(_as_dict(loaded))
    else:
        _print_values(loaded)
    _print_warnings(loaded)
    return output.OK


_SHOW_HELP = """\
Usage: revstore config show [--json] [FLAGS OF SERVE]

  Show the effective settings and where each comes from: default, profile, file,
  environment or flag. Takes all flags of 'revstore serve' ('revstore serve --help').

Options:
  --json  Print JSON."""


def _print_warnings(loaded: LoadedConfig) -> None:
    for warning in loaded.warnings:
        output.warn(warning)


def _values(loaded: LoadedConfig) -> dict[str, tuple[Any, str]]:
    """Value and text of each setting and plugin option, by name."""
    from revstore.config.forms import Form, to_text
    from revstore.config.settings import SETTINGS

    values = {}
    for name, setting in SETTINGS.items():
        value = getattr(loaded.config, setting.field)
        form = setting.form
        if form is Form.RETENTION:
            periodic = loaded.config.auto_compaction_mode == "periodic"
            form = Form.DURATION if periodic else Form.INTEGER
        values[name] = (value, to_text(form, value))
    for kind, options in loaded.plugin_options.items():
        for option, value in options.items():
            path = f"{kind}.{getattr(loaded.config, kind)}.{option}"
            values[path] = (value, str(value))
    return values


def _as_dict(loaded: LoadedConfig) -> dict[str, Any]:
    return {
        name: {"value": value, "text": text, "origin": loaded.origins[name]}
        for name, (value, text) in _values(loaded).items()
    }


def _print_values(loaded: LoadedConfig) -> None:
    rows = [
        (name, text or "''", loaded.origins[name])
        for name, (_, text) in _values(loaded).items()
    ]
    output.table(("SETTING", "VALUE", "FROM"), rows)
