"""From a mapping of option names to the options model of a plugin.

Values of a file keep their type and must have the right one. Values of flags and
environment variables are text; they are marked by ``OptionText`` and are turned into
what the model asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import msgspec

from revstore.errors import ConfigError, PluginError


class OptionText(str):
    """The text of an option given by a flag or an environment variable."""

    __slots__ = ()


def convert_options(
    model: type[msgspec.Struct], values: Mapping[str, Any], owner: str
) -> msgspec.Struct:
    """An instance of ``model`` with the given values.

    ``owner`` is how messages call the plugin, for example ``backend 'lmdb'``.

    Raises:
        ConfigError: unknown option, wrong type or a value that the model refuses.
        PluginError: the model cannot be made at all.
    """
    fields = {field.name: field for field in msgspec.structs.fields(model)}
    converted = {}
    for given, value in values.items():
        name = given.replace("-", "_")
        field = fields.get(name)
        if field is None:
            raise ConfigError(_unknown_option(given, sorted(fields), owner))
        converted[name] = _convert_value(field.type, value, name, owner)
    try:
        return model(**converted)
    except ValueError as exc:
        raise ConfigError(f"options of {owner}: {exc}") from exc
    except Exception as exc:
        raise PluginError(
            f"the options of {owner} cannot be made: {type(exc).__name__}: {exc}"
        ) from exc


def _convert_value(wanted: Any, value: Any, name: str, owner: str) -> Any:
    is_text = isinstance(value, OptionText)
    try:
        return msgspec.convert(
            str(value) if is_text else value, wanted, strict=not is_text
        )
    except msgspec.ValidationError as exc:
        raise ConfigError(
            f"option {name!r} of {owner}: {exc}; the value is {value!r}"
        ) from exc


def _unknown_option(name: str, known: list[str], owner: str) -> str:
    if not known:
        return f"{owner} has no options, so {name!r} cannot be set"
    close = get_close_matches(name.replace("-", "_"), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{owner} has no option {name!r}; {hint}its options are {', '.join(known)}"
