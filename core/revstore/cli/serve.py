"""``revstore serve``: run a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from revstore.cli import output
from revstore.cli.config import RAW_ARGUMENTS

if TYPE_CHECKING:
    from revstore.config import LoadedConfig
    from revstore.logs import LogSetup


@click.command(context_settings=RAW_ARGUMENTS)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def serve(flags: tuple[str, ...]) -> int:
    """Run a server."""
    from revstore.config import load_config, parse_flags

    parsed = parse_flags(flags)
    if "help" in parsed:
        from revstore.cli.flaghelp import serve_help

        output.line(serve_help())
        return output.OK
    if "version" in parsed:
        from revstore.cli.version import version_lines

        output.line("\n".join(version_lines()))
        return output.OK
    loaded = load_config(parsed)
    _check_plugins(loaded)
    with _start_logs(loaded):
        return _run(loaded)


def _check_plugins(loaded: LoadedConfig) -> None:
    from revstore.config import ConfigProblems
    from revstore.config.plugins import plugin_problems
    from revstore.plugin.manager import PluginManager

    problems = plugin_problems(loaded, PluginManager())
    if problems:
        raise ConfigProblems(problems)


def _start_logs(loaded: LoadedConfig) -> LogSetup:
    from revstore import logs

    config = loaded.config
    rotation = None
    if config.enable_log_rotation:
        rotation = logs.parse_rotation(config.log_rotation_config_json)
    return logs.setup(config.log_level, config.log_format, config.log_outputs, rotation)


def _run(loaded: LoadedConfig) -> int:
    from revstore import logs
    from revstore.node.server import run

    log = logs.get("revstore.cli.serve")
    for warning in loaded.warnings:
        log.warn("configuration", warning=warning)
    return run(loaded)
