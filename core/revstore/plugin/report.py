"""What is known about one plugin, for listings."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from revstore.hookspecs import Plugin
from revstore.plugin.sources import IN_PROCESS


class PluginReport(msgspec.Struct, frozen=True):
    """One line of ``revstore plugins list``."""

    name: str
    kind: str
    """Empty if the module could not be loaded, so that its kind is not known."""
    distribution: str
    version: str
    status: str
    """``ok``, ``driver missing``, ``shadowed``, ``conflict`` or ``broken``."""
    summary: str
    detail: str = ""
    """What is wrong and what to do, empty if nothing is."""
    module: str = ""
    builtin: bool = False


def missing_requirements(plugin: Plugin, distribution: str) -> list[str]:
    """Distributions that the plugin's extra asks for and that are not installed.

    Read from metadata, so no driver is imported. Raises: nothing.
    """
    if not plugin.extra or distribution == IN_PROCESS:
        return []
    from importlib import metadata

    try:
        requirements = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return []
    missing = []
    for name in _names_of_extra(requirements, plugin.extra):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def _names_of_extra(requirements: Iterable[str], extra: str) -> list[str]:
    """The plain names that an extra adds, without versions and markers."""
    names = []
    for requirement in requirements:
        head, _, marker = requirement.partition(";")
        if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", marker) is None:
            continue
        match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", head)
        if match is not None:
            names.append(match.group(1))
    return names
