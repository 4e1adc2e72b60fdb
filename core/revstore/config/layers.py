"""Gathering values from one source after the other, the later ones winning.

Rules of this file:

1. Every value is read and checked where it is given, even if a later one wins: what
   is wrong in a file is reported whatever the flags say.
2. A problem is noted and the work goes on, so that all of them are told at once.
3. Each value remembers where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from revstore.config import foreign
from revstore.config.forms import Form, from_text, from_value
from revstore.config.profiles import PROFILES
from revstore.config.settings import SETTINGS, similar_name
from revstore.plugin.kinds import KINDS, Kind
from revstore.plugin.options import OptionText

DEFAULT_ORIGIN = "default"


class OptionGiven(msgspec.Struct, frozen=True):
    """A plugin option as it was given, before it is known which plugins are in use."""

    kind: str
    """Empty if only the plugin was named."""
    plugin: str
    option: str
    value: Any
    origin: str


class Layers:
    """The values so far, with their origins, warnings and problems."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {
            name: setting.default for name, setting in SETTINGS.items()
        }
        self.origins = dict.fromkeys(SETTINGS, DEFAULT_ORIGIN)
        self.options: list[OptionGiven] = []
        self.warnings: list[str] = []
        self.problems: list[str] = []

    def given(self, name: str) -> bool:
        """Whether anything but the default was given for a setting."""
        return self.origins[name] != DEFAULT_ORIGIN

    def problem(self, origin: str, text: str) -> None:
        """Note what has to be changed."""
        self.problems.append(f"{origin}: {text}" if origin else text)

    def take_text(self, name: str, text: str, origin: str) -> None:
        """A value from a flag or a variable."""
        self._take(name, text, origin, is_text=True)

    def take_value(self, name: str, value: Any, origin: str) -> None:
        """A value from a TOML file."""
        self._take(name, value, origin, is_text=False)

    def take_profile(self, name: str) -> None:
        """What a profile chooses; its plugin options come before all others."""
        profile = PROFILES[name]
        origin = f"profile {name}"
        for setting, value in profile.settings.items():
            self.values[setting] = value
            self.origins[setting] = origin
        self.options = [
            OptionGiven(kind, plugin, option, value, origin)
            for (kind, plugin), chosen in profile.options.items()
            for option, value in chosen.items()
        ] + self.options

    def _take(self, name: str, value: Any, origin: str, *, is_text: bool) -> None:
        if name in foreign.RENAMED:
            new = foreign.RENAMED[name]
            self.warnings.append(f"{origin}: {name} is the old spelling of {new}")
            name = new
        setting = SETTINGS.get(name)
        if setting is not None:
            try:
                read = from_text if is_text else from_value
                checked = setting.checked(read(setting.form, value))
                if setting.form is Form.GATES:
                    # Gate by gate: one flag must not undo what another one set.
                    checked = self.values[name] | checked
                self.values[name] = checked
                self.origins[name] = origin
            except ValueError as exc:
                self.problem(origin, f"{name}: {exc}")
        elif name in foreign.GATED:
            self._take_gate(name, value, origin, is_text=is_text)
        else:
            self._take_foreign(name, value, origin)

    def _take_gate(self, name: str, value: Any, origin: str, *, is_text: bool) -> None:
        gate = foreign.GATED[name]
        try:
            on = (from_text if is_text else from_value)(Form.BOOLEAN, value)
        except ValueError as exc:
            self.problem(origin, f"{name}: {exc}")
            return
        self.warnings.append(f"{origin}: {name} is now feature-gates={gate}=true|false")
        self.values["feature-gates"] = self.values["feature-gates"] | {gate: on}
        self.origins["feature-gates"] = origin

    def _take_foreign(self, name: str, value: Any, origin: str) -> None:
        if name in foreign.NO_EFFECT:
            reason = foreign.NO_EFFECT[name]
            self.warnings.append(f"{origin}: {name} has no effect here: {reason}")
        elif name in foreign.REFUSED:
            harmless, advice = foreign.REFUSED[name]
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if text not in harmless:
                self.problem(origin, f"{name} is not supported; {advice}")
        elif name in foreign.REMOVED:
            self.problem(origin, f"{name} does not exist: {foreign.REMOVED[name]}")
        else:
            self.problem(origin, f"there is no setting {name}{similar_name(name)}")

    def take_set(self, text: str, origin: str) -> None:
        """One ``plugin.option=value`` or ``kind.plugin.option=value``."""
        path, equals, value = text.partition("=")
        parts = path.strip().split(".")
        if not equals or len(parts) not in (2, 3) or not all(parts):
            self.problem(
                origin,
                f"{text!r} is not of the form plugin.option=value, for example "
                "lmdb.some_option=1",
            )
            return
        kind, plugin, option = ["", *parts][-3:]
        self.options.append(
            OptionGiven(kind, plugin, option, OptionText(value), origin)
        )

    def plugin_options(self) -> tuple[dict[Kind, dict[str, Any]], dict[str, str]]:
        """Options of the plugins in use, by kind, and their origins.

        Options of other plugins: a warning if a file has them, a problem otherwise.
        """
        chosen: dict[Kind, str] = {kind: self.values[kind] for kind in KINDS}
        options: dict[Kind, dict[str, Any]] = {kind: {} for kind in KINDS}
        origins: dict[str, str] = {}
        for given in self.options:
            kinds = [
                kind
                for kind in KINDS
                if chosen[kind] == given.plugin and given.kind in ("", kind)
            ]
            if not kinds:
                self._option_of_other(given, chosen)
                continue
            option = given.option.replace("-", "_")
            for kind in kinds:
                options[kind][option] = given.value
                origins[f"{kind}.{given.plugin}.{option}"] = given.origin
        return options, origins

    def _option_of_other(self, given: OptionGiven, chosen: Mapping[Kind, str]) -> None:
        if given.origin.startswith("profile "):
            return
        in_use = ", ".join(f"{kind} {name}" for kind, name in chosen.items())
        text = f"the plugin {given.plugin!r} is not in use; in use are {in_use}"
        if isinstance(given.value, OptionText):
            self.problem(given.origin, text)
        else:
            self.warnings.append(
                f"{given.origin}: {given.option} has no effect: {text}"
            )
