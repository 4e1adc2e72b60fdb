"""Importing one plugin module and checking what it registers.

Rules of this file:

1. Each module gets a pluggy manager of its own: what one plugin does wrong cannot
   show in another one.
2. Nothing is trusted: type, name, version, options model and hook names are checked
   before a descriptor is handed out, and each failure says which module is at fault.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pluggy

from revstore import hookspecs
from revstore.errors import PluginError
from revstore.hookspecs import API_VERSION, GROUP, Plugin
from revstore.plugin.kinds import FACTS, KINDS, kind_of
from revstore.plugin.sources import Source

TRACE_VARIABLE = "REVSTORE_TRACE_PLUGINS"

_log = logging.getLogger(__name__)


def load_source(source: Source, *, trace: bool = False) -> list[Plugin]:
    """The descriptors that the module of ``source`` registers, checked.

    At most one of each kind, all of the source's name.

    Raises:
        PluginError: the module cannot be imported or breaks a rule; the message names
            module and distribution.
    """
    where = f"plugin {source.name!r} (module {source.module}, from {source.describe()})"
    module = _import_module(source.module, where)
    plugins = _call_hooks(module, where, trace)
    if not plugins:
        raise PluginError(
            f"{where} registers nothing; it needs a function marked with @hookimpl, for "
            "example revstore_register_backend(register)"
        )
    kinds = set()
    for plugin in plugins:
        check_descriptor(plugin, where)
        if plugin.name != source.name:
            raise PluginError(
                f"{where} registers the name {plugin.name!r}; the entry point and the "
                "descriptor must have the same name"
            )
        if kind_of(plugin) in kinds:
            raise PluginError(f"{where} registers two {kind_of(plugin)} plugins")
        kinds.add(kind_of(plugin))
    return plugins


def check_descriptor(plugin: Plugin, where: str) -> None:
    """Check what every descriptor must obey.

    Raises:
        PluginError: it does not; the message starts with ``where``.
    """
    if plugin.api_version != API_VERSION:
        newer = plugin.api_version > API_VERSION
        advice = "upgrade revstore" if newer else "upgrade the plugin"
        raise PluginError(
            f"{where} is written for version {plugin.api_version} of the plugin "
            f"contracts, this revstore has version {API_VERSION}; {advice}"
        )
    if not plugin.name or not isinstance(plugin.name, str):
        raise PluginError(f"{where} has no name")
    wanted = FACTS[kind_of(plugin)].capabilities
    if not isinstance(plugin.capabilities, wanted):
        raise PluginError(
            f"{where}: capabilities must be a {wanted.__name__}, not a "
            f"{type(plugin.capabilities).__name__}"
        )
    if not callable(plugin.factory):
        raise PluginError(f"{where}: the factory cannot be called")
    _check_options_model(plugin.options, where)


def _check_options_model(model: Any, where: str) -> None:
    if not (isinstance(model, type) and issubclass(model, msgspec.Struct)):
        raise PluginError(f"{where}: options must be a subclass of msgspec.Struct")
    if not model.__struct_config__.frozen:
        raise PluginError(f"{where}: {model.__name__} must be frozen (frozen=True)")
    try:
        fields = msgspec.structs.fields(model)
    except (NameError, TypeError) as exc:
        raise PluginError(
            f"{where}: the types of {model.__name__} cannot be resolved: {exc}"
        ) from exc
    for field in fields:
        if field.required:
            raise PluginError(
                f"{where}: {model.__name__}.{field.name} needs a default; a plugin must "
                "work without any option"
            )


def _import_module(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as exc:
        hint = ""
        if isinstance(exc, ImportError) and not name.startswith(exc.name or name):
            hint = "; a plugin module imports its driver in the factory, not at the top"
        raise PluginError(
            f"{where} cannot be imported: {type(exc).__name__}: {exc}{hint}"
        ) from exc


def _call_hooks(module: ModuleType, where: str, trace: bool) -> list[Plugin]:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module)
        manager.check_pending()
    except pluggy.PluginValidationError as exc:
        known = ", ".join(FACTS[kind].hook for kind in KINDS)
        text = " ".join(str(exc).split())
        raise PluginError(f"{where}: {text}; the hooks are {known}") from exc
    if trace:
        _trace_hooks(manager, module.__name__)
    plugins: list[Plugin] = []
    for kind in KINDS:
        facts = FACTS[kind]
        register = _collector(plugins, facts.descriptor, facts.hook, where)
        try:
            getattr(manager.hook, facts.hook)(register=register)
        except PluginError:
            raise
        except Exception as exc:
            raise PluginError(
                f"{where}: {facts.hook} failed: {type(exc).__name__}: {exc}"
            ) from exc
    return plugins


def _collector(
    plugins: list[Plugin], wanted: type[msgspec.Struct], hook: str, where: str
) -> Callable[[Any], None]:
    def register(plugin: Any) -> None:
        if not isinstance(plugin, wanted):
            raise PluginError(
                f"{where}: {hook} must register a {wanted.__name__}, not a "
                f"{type(plugin).__name__}"
            )
        plugins.append(plugin)  # type: ignore[arg-type]  # narrowed to a kind above

    return register


def _trace_hooks(manager: pluggy.PluginManager, module: str) -> None:
    def before(hook_name: str, impls: Any, arguments: Any) -> None:
        _log.info("hook call", extra={"fields": {"hook": hook_name, "module": module}})

    def after(outcome: Any, hook_name: str, impls: Any, arguments: Any) -> None:
        error = outcome.exception
        fields = {
            "hook": hook_name,
            "module": module,
            "implementations": len(impls),
            "error": "" if error is None else str(error),
        }
        _log.info("hook done", extra={"fields": fields})

    manager.add_hookcall_monitoring(before, after)
