"""The model's fields as a table, for everything that is made from it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from revstore.config import foreign
from revstore.config.forms import Form, to_text
from revstore.config.model import ServerConfig

_FORMS: dict[Any, Form] = {
    str: Form.TEXT,
    int: Form.INTEGER,
    bool: Form.BOOLEAN,
    float: Form.DURATION,
    tuple: Form.LIST,
}


class Setting(msgspec.Struct, frozen=True):
    """One field of the model."""

    name: str
    """etcd's spelling, with ``-``."""
    form: Form
    default: Any
    meaning: str
    group: str
    choices: tuple[str, ...]
    low: float | None
    high: float | None

    @property
    def field(self) -> str:
        """The name of the field in ``ServerConfig``."""
        return self.name.replace("-", "_")

    def default_text(self) -> str:
        """The default as a flag would give it. Raises: nothing."""
        return to_text(self.form, self.default)

    def checked(self, value: Any) -> Any:
        """The value, if it is within choices and bounds.

        Raises:
            ValueError: it is not.
        """
        if self.choices and value not in self.choices:
            known = ", ".join(repr(choice) for choice in self.choices if choice)
            close = get_close_matches(str(value), self.choices, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{value!r} is none of {known}{hint}")
        if self.low is not None and value < self.low:
            raise ValueError(f"must be at least {self._bound(self.low)}")
        if self.high is not None and value > self.high:
            raise ValueError(f"must be at most {self._bound(self.high)}")
        return value

    def _bound(self, bound: float) -> str:
        return to_text(self.form, bound)


def _table() -> dict[str, Setting]:
    hints = get_type_hints(ServerConfig, include_extras=True)
    table = {}
    for field in msgspec.structs.fields(ServerConfig):
        plain, meta = get_args(hints[field.name])[:2]
        extra = meta.extra
        default = (
            field.default_factory()
            if field.default is msgspec.NODEFAULT
            else field.default
        )
        name = field.name.replace("_", "-")
        table[name] = Setting(
            name=name,
            form=extra["form"] or _FORMS[get_origin(plain) or plain],
            default=default,
            meaning=meta.description,
            group=extra["group"],
            choices=extra["choices"],
            low=extra["low"],
            high=extra["high"],
        )
    return table


SETTINGS: dict[str, Setting] = _table()
"""All settings by etcd's spelling, in the order of the model."""

COMMAND_NAMES = ("config", "set", "debug", "version", "help")
"""Flags of ``serve`` that are no settings of the server."""


COMMAND_SWITCHES = ("debug", "version", "help")
"""Those of them that take no value."""


def known_names() -> list[str]:
    """Every name that is answered with anything but "unknown". Raises: nothing."""
    return [
        *SETTINGS,
        *COMMAND_NAMES,
        *foreign.NO_EFFECT,
        *foreign.REFUSED,
        *foreign.RENAMED,
        *foreign.GATED,
        *foreign.REMOVED,
    ]


def is_switch(name: str) -> bool:
    """Whether the flag may stand without a value, meaning true. Raises: nothing."""
    name = foreign.RENAMED.get(name, name)
    if name in COMMAND_SWITCHES:
        return True
    if name in SETTINGS:
        return SETTINGS[name].form is Form.BOOLEAN
    return name in foreign.BOOLEAN_FOREIGN or name in foreign.GATED


def similar_name(name: str, prefix: str = "") -> str:
    """A hint "did you mean ...?" for an unknown name, or "". Raises: nothing."""
    good = [*SETTINGS, *COMMAND_NAMES]
    close = get_close_matches(name.lower().replace("_", "-"), good, n=2, cutoff=0.7)
    if not close:
        return ""
    return f"; did you mean {' or '.join(prefix + each for each in close)}?"
