"""Finding, checking and making plugins."""

from __future__ import annotations

from revstore.plugin.kinds import KINDS, Kind
from revstore.plugin.manager import PluginManager
from revstore.plugin.options import OptionText
from revstore.plugin.report import PluginReport

__all__ = ["KINDS", "Kind", "OptionText", "PluginManager", "PluginReport"]
