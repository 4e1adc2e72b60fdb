"""Calling a plugin's factory so that nothing but revstore's errors comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from revstore.durable import sync_directory
from revstore.errors import PluginError, RevstoreError, StorageError
from revstore.hookspecs import Plugin
from revstore.plugin.sources import IN_PROCESS, OWN_DISTRIBUTION

Product = TypeVar("Product")


def install_advice(plugin: Plugin, distribution: str) -> str:
    """How to get the driver of a plugin, as an imperative clause. Raises: nothing."""
    if not plugin.extra:
        return f"see the documentation of {distribution}"
    if distribution == IN_PROCESS:
        distribution = OWN_DISTRIBUTION
    return f"install it with: pip install '{distribution}[{plugin.extra}]'"


def call_factory(
    owner: str,
    plugin: Plugin,
    distribution: str,
    product: type[Product],
    call: Callable[[], object],
) -> Product:
    """What ``call`` returns, if it is a ``product``.

    Raises:
        PluginError: the driver is missing, the factory failed outside its contract or
            returned something else.
        StorageError: the factory met an error of the operating system.
        RevstoreError: whatever the factory raises by contract.
    """
    try:
        made = call()
    except RevstoreError:
        raise
    except ImportError as exc:
        raise PluginError(
            f"{owner} needs a driver that cannot be imported ({exc}); "
            f"{install_advice(plugin, distribution)}"
        ) from exc
    except OSError as exc:
        raise StorageError(f"{owner} cannot be opened: {exc}") from exc
    except Exception as exc:
        raise PluginError(
            f"{owner} cannot be made: {type(exc).__name__}: {exc}; this breaks the "
            f"contract of its kind, report it to {distribution}"
        ) from exc
    if not isinstance(made, product):
        raise PluginError(
            f"the factory of {owner} returned a {type(made).__name__}, not a "
            f"{product.__name__}; report it to {distribution}"
        )
    return made


def make_directory(path: Path) -> None:
    """Make a private directory and those above it, durably; it may be there already.

    Raises:
        StorageError: it cannot be made.
    """
    missing = []
    current = path
    while not current.exists():
        missing.append(current)
        current = current.parent
    try:
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
            sync_directory(folder.parent)
        if not path.is_dir():
            raise NotADirectoryError(f"{path} is not a directory")
    except OSError as exc:
        raise StorageError(f"the directory {path} cannot be made: {exc}") from exc
