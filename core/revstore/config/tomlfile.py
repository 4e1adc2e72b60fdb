"""Reading the TOML file: one table for the server, one for each plugin.

::

    [server]
    name = "one"
    backend = "lmdb"

    [backend.lmdb]
    some_option = 1
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from revstore.config.layers import Layers, OptionGiven
from revstore.errors import ConfigError
from revstore.plugin.kinds import KINDS

SERVER_TABLE = "server"

_TABLE_LINE = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?$")
_KEY_LINE = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")


def read_toml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, str], int]]:
    """The document, and the line of each key by (table, key).

    Raises:
        ConfigError: the file cannot be read or is no TOML; the message has the line.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise ConfigError(f"the file {path} cannot be read: {reason}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"the file {path} is not UTF-8: {exc}") from exc
    try:
        return tomllib.loads(text), key_lines(text)
    except tomllib.TOMLDecodeError as exc:
        hint = ""
        if path.suffix in (".yaml", ".yml", ".json"):
            hint = "; revstore reads TOML, table [server], with etcd's names"
        raise ConfigError(f"the file {path} is not valid TOML: {exc}{hint}") from exc


def key_lines(text: str) -> dict[tuple[str, str], int]:
    """Where keys stand, as far as a look at single lines tells. Raises: nothing."""
    lines: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _TABLE_LINE.match(line):
            table = match.group(1).replace(" ", "").replace('"', "")
            lines.setdefault((table, ""), number)
        elif match := _KEY_LINE.match(line):
            lines.setdefault((table, match.group(1).strip("\"'")), number)
    return lines


class TomlFile:
    """A file that was read, to be poured into layers."""

    def __init__(self, path: Path) -> None:
        """Raises: ConfigError, as ``read_toml`` does."""
        self.path = path
        self.document, self._lines = read_toml(path)

    def profile(self) -> Any:
        """What the file says about the profile, None if nothing. Raises: nothing."""
        table = self.document.get(SERVER_TABLE)
        return table.get("profile") if isinstance(table, Mapping) else None

    def origin(self, table: str, key: str = "") -> str:
        """File and, where it is known, line. Raises: nothing."""
        line = self._lines.get((table, key)) or self._lines.get((table, ""))
        return f"{self.path}:{line}" if line else str(self.path)

    def pour(self, layers: Layers) -> None:
        """Hand every value to the layers. Raises: nothing."""
        for table, content in self.document.items():
            if table != SERVER_TABLE and table not in KINDS:
                self._unknown_table(layers, table, content)
            elif not isinstance(content, Mapping):
                origin = self.origin("", table)
                layers.problem(origin, f"{table} must be a table: [{table}]")
            elif table == SERVER_TABLE:
                self._pour_server(layers, content)
            else:
                self._pour_plugins(layers, table, content)

    def _unknown_table(self, layers: Layers, table: str, content: Any) -> None:
        names = [SERVER_TABLE, *KINDS]
        close = get_close_matches(table, names, n=1)
        if isinstance(content, Mapping):
            hint = f"did you mean [{close[0]}]? " if close else ""
            text = f"there is no table [{table}]; {hint}the tables are [server] and "
            text += ", ".join(f"[{kind}.NAME]" for kind in KINDS)
        else:
            text = f"{table} stands outside a table; put it below [server]"
        layers.problem(
            self.origin(table if isinstance(content, Mapping) else "", table), text
        )

    def _pour_server(self, layers: Layers, content: Mapping[str, Any]) -> None:
        seen: dict[str, str] = {}
        for key, value in content.items():
            name = key.replace("_", "-")
            origin = self.origin(SERVER_TABLE, key)
            if name in seen:
                layers.problem(origin, f"{key} and {seen[name]} are the same setting")
                continue
            seen[name] = key
            layers.take_value(name, value, origin)

    def _pour_plugins(
        self, layers: Layers, kind: str, content: Mapping[str, Any]
    ) -> None:
        for plugin, options in content.items():
            table = f"{kind}.{plugin}"
            if not isinstance(options, Mapping):
                text = (
                    f"options of a {kind} stand in a table of its name: [{kind}.NAME]"
                )
                layers.problem(self.origin(kind, plugin), f"{plugin}: {text}")
                continue
            for option, value in options.items():
                origin = self.origin(table, option)
                layers.options.append(OptionGiven(kind, plugin, option, value, origin))
