"""From file, environment and flags to one checked configuration.

Rules of this file:

1. Order, the later wins: default, profile, file, environment, flag. In the
   environment REVSTORE_ wins over ETCD_.
2. All problems are told at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from revstore.config import checks
from revstore.config.layers import Layers, OptionGiven
from revstore.config.model import ServerConfig
from revstore.config.profiles import PROFILES
from revstore.config.settings import COMMAND_NAMES, SETTINGS, known_names, similar_name
from revstore.config.tomlfile import TomlFile
from revstore.errors import ConfigError
from revstore.plugin.kinds import KINDS, Kind
from revstore.plugin.options import OptionText

OWN_PREFIX = "REVSTORE_"
ETCD_PREFIX = "ETCD_"
OPTION_PREFIX = "REVSTORE_SET_"

RESERVED_VARIABLES = frozenset(
    {"REVSTORE_CONFIG", "REVSTORE_DEBUG", "REVSTORE_PLUGINS", "REVSTORE_TRACE_PLUGINS"}
)
"""Variables with the prefix that are no settings."""


class ConfigProblems(ConfigError):  # noqa: N818 - it holds several
    """The configuration is wrong in one or more places; all are in ``problems``."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class LoadedConfig(msgspec.Struct, frozen=True):
    """A configuration that passed every check."""

    config: ServerConfig
    origins: dict[str, str]
    """Where each value comes from: by etcd's spelling, and ``kind.plugin.option``."""
    plugin_options: dict[Kind, dict[str, Any]]
    """Options of the four plugins in use, to be handed to ``PluginManager.make_*``."""
    warnings: list[str]


def load_config(
    argv_flags: Mapping[str, str | list[str]],
    environ: Mapping[str, str] | None = None,
    file: str | os.PathLike[str] | None = None,
) -> LoadedConfig:
    """The effective configuration.

    ``argv_flags`` is what ``parse_flags`` returns; ``environ`` None means the process
    environment; ``file`` None means the flag ``config`` or REVSTORE_CONFIG.

    Raises:
        ConfigProblems: something is wrong; it lists all problems.
        ConfigError: the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    layers = Layers()
    path = file or argv_flags.get("config") or environ.get("REVSTORE_CONFIG") or ""
    document = TomlFile(Path(str(path))) if path else None
    _take_profile(layers, argv_flags, environ, document)
    if document is not None:
        document.pour(layers)
    _take_variables(layers, environ)
    _take_flags(layers, argv_flags)
    _take_option_variables(layers, environ)
    _take_option_flags(layers, argv_flags)
    checks.derive(layers)
    checks.check(layers)
    options, option_origins = layers.plugin_options()
    if layers.problems:
        raise ConfigProblems(layers.problems)
    fields = {SETTINGS[name].field: value for name, value in layers.values.items()}
    return LoadedConfig(
        config=ServerConfig(**fields),
        origins=layers.origins | option_origins,
        plugin_options=options,
        warnings=layers.warnings,
    )


def _take_profile(
    layers: Layers,
    flags: Mapping[str, str | list[str]],
    environ: Mapping[str, str],
    document: TomlFile | None,
) -> None:
    """The profile lies below the file, so its name has to be known first."""
    chosen = (
        flags.get("profile")
        or environ.get(f"{OWN_PREFIX}PROFILE")
        or environ.get(f"{ETCD_PREFIX}PROFILE")
        or (document.profile() if document else None)
    )
    if isinstance(chosen, str) and chosen in PROFILES:
        layers.take_profile(chosen)


def _take_variables(layers: Layers, environ: Mapping[str, str]) -> None:
    known = frozenset(known_names()) - frozenset(COMMAND_NAMES)
    for prefix in (ETCD_PREFIX, OWN_PREFIX):
        for variable in sorted(environ):
            text = environ[variable]
            if not variable.startswith(prefix) or not text:
                continue
            if variable in RESERVED_VARIABLES or variable.startswith(OPTION_PREFIX):
                continue
            name = variable.removeprefix(prefix).lower().replace("_", "-")
            if name in known:
                layers.take_text(name, text, f"environment {variable}")
            else:
                # Not an error: Kubernetes puts REVSTORE_PORT and its like into the
                # environment of every pod beside a service named "revstore".
                layers.warnings.append(
                    f"environment {variable}: there is no setting "
                    f"{name}{similar_name(name)}; it is ignored"
                )


def _take_flags(layers: Layers, flags: Mapping[str, str | list[str]]) -> None:
    if flags.get("debug") == "true":
        layers.take_text("log-level", "debug", "flag --debug")
    for name, value in flags.items():
        if name in COMMAND_NAMES:
            continue
        texts = [value] if isinstance(value, str) else value
        for text in texts:
            layers.take_text(name, text, f"flag --{name}")


def _take_option_variables(layers: Layers, environ: Mapping[str, str]) -> None:
    """REVSTORE_SET_<PLUGIN>_<OPTION>, for the plugins in use."""
    names = {_variable_part(layers.values[kind]): layers.values[kind] for kind in KINDS}
    for variable in sorted(environ):
        if not variable.startswith(OPTION_PREFIX):
            continue
        rest = variable.removeprefix(OPTION_PREFIX)
        origin = f"environment {variable}"
        fits = [part for part in names if rest.startswith(f"{part}_")]
        if not fits:
            layers.problem(
                origin,
                "no plugin in use fits; write REVSTORE_SET_<PLUGIN>_<OPTION> with one "
                f"of {', '.join(sorted(names))}",
            )
            continue
        part = max(fits, key=len)
        option = rest.removeprefix(f"{part}_").lower()
        value = OptionText(environ[variable])
        layers.options.append(OptionGiven("", names[part], option, value, origin))


def _variable_part(plugin: str) -> str:
    return plugin.upper().replace("-", "_")


def _take_option_flags(layers: Layers, flags: Mapping[str, str | list[str]]) -> None:
    value = flags.get("set", [])
    for text in [value] if isinstance(value, str) else value:
        layers.take_set(text, "flag --set")
