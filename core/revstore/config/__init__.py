"""Configuration: file, environment and flags."""

from __future__ import annotations

from revstore.config.flags import parse_flags
from revstore.config.load import ConfigProblems, LoadedConfig, load_config
from revstore.config.model import ServerConfig

__all__ = [
    "ConfigProblems",
    "LoadedConfig",
    "ServerConfig",
    "load_config",
    "parse_flags",
]
