"""The plugin manager: from a kind and a name to a working part.

Rules of this file:

1. Only the module of the plugin that is asked for is imported.
2. A name that this distribution ships means the shipped plugin, whatever else is
   installed; ``all`` shows what is shadowed that way.
3. Any other name must be unique among all distributions: which one was meant cannot
   be guessed.
4. pluggy is used while a module is loaded and never afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast, overload

import msgspec

from revstore.errors import PluginError
from revstore.hookspecs import (
    BackendPlugin,
    ConsensusPlugin,
    Plugin,
    TransportPlugin,
    WalPlugin,
)
from revstore.interfaces.backend import Backend
from revstore.interfaces.consensus import Consensus, ConsensusStart
from revstore.interfaces.transport import Transport
from revstore.interfaces.wal import Wal
from revstore.plugin.kinds import KINDS, Kind, kind_of
from revstore.plugin.load import TRACE_VARIABLE, check_descriptor, load_source
from revstore.plugin.make import call_factory, install_advice, make_directory
from revstore.plugin.options import convert_options
from revstore.plugin.report import PluginReport, missing_requirements
from revstore.plugin.sources import (
    BUILTIN,
    IN_PROCESS,
    OWN_DISTRIBUTION,
    RESTRICT_VARIABLE,
    Source,
    builtin_source,
    installed_sources,
)


class PluginManager:
    """Finds, checks and makes plugins.

    ``environ`` replaces the process environment, for REVSTORE_PLUGINS and
    REVSTORE_TRACE_PLUGINS. A manager remembers what it has loaded and is used by one
    thread at a time.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._trace = self._environ.get(TRACE_VARIABLE, "") not in ("", "0")
        self._installed: list[Source] | None = None
        self._loaded: dict[Source, list[Plugin]] = {}
        self._registered: dict[tuple[Kind, str], Plugin] = {}

    def register(self, plugin: Plugin) -> None:
        """Add a plugin of this process, for tests and embedders.

        Raises:
            PluginError: the descriptor breaks a rule, or the name is taken by another
                registered plugin or by one that this distribution ships.
        """
        if not isinstance(
            plugin, BackendPlugin | WalPlugin | ConsensusPlugin | TransportPlugin
        ):
            raise PluginError(
                f"register takes a plugin descriptor, not a {type(plugin).__name__}"
            )
        check_descriptor(plugin, f"plugin {plugin.name!r} {IN_PROCESS}")
        kind = kind_of(plugin)
        if (kind, plugin.name) in self._registered:
            raise _two_of_one_name(plugin.name, [IN_PROCESS, IN_PROCESS])
        if plugin.name in BUILTIN:
            raise _two_of_one_name(plugin.name, [OWN_DISTRIBUTION, IN_PROCESS])
        self._registered[kind, plugin.name] = plugin

    @overload
    def find(self, kind: Literal["backend"], name: str) -> BackendPlugin: ...
    @overload
    def find(self, kind: Literal["wal"], name: str) -> WalPlugin: ...
    @overload
    def find(self, kind: Literal["consensus"], name: str) -> ConsensusPlugin: ...
    @overload
    def find(self, kind: Literal["transport"], name: str) -> TransportPlugin: ...
    @overload
    def find(self, kind: Kind, name: str) -> Plugin: ...

    def find(self, kind: Kind, name: str) -> Plugin:
        """The descriptor of a plugin.

        Raises:
            PluginError: there is no such plugin, two distributions bring it, it is of
                another kind, or its module breaks a rule.
        """
        return self._find(kind, name)[0]

    def names(self, kind: Kind) -> list[str]:
        """Names of all plugins known to be of a kind, sorted. Raises: nothing."""
        return sorted({report.name for report in self.all() if report.kind == kind})

    def all(self) -> list[PluginReport]:
        """Every plugin there is, also those that cannot be used; drivers stay unloaded.

        Sorted by kind and name. Raises: nothing.
        """
        sources = self._sources()
        for name in BUILTIN:
            own = (source.distribution == OWN_DISTRIBUTION for source in sources)
            if not any(own):
                sources = [*sources, cast(Source, builtin_source(name))]
        reports = [report for source in sources for report in self._report(source)]
        reports.extend(
            PluginReport(
                name=plugin.name,
                kind=kind_of(plugin),
                distribution=IN_PROCESS,
                version="",
                status="ok",
                summary=plugin.summary,
            )
            for plugin in self._registered.values()
        )
        order = {kind: place for place, kind in enumerate(KINDS)}
        return sorted(
            reports,
            key=lambda report: (
                order.get(cast(Kind, report.kind), len(order)),
                report.name,
                report.distribution,
            ),
        )

    def convert_options(
        self, kind: Kind, name: str, options: Mapping[str, Any] | None = None
    ) -> Any:
        """The options model of a plugin, filled.

        Raises:
            PluginError: as for ``find``.
            ConfigError: an option is unknown or has a wrong value.
        """
        return convert_options(
            self.find(kind, name).options, options or {}, f"{kind} {name!r}"
        )

    def make_backend(
        self,
        name: str,
        directory: Path,
        keyspaces: Sequence[str],
        options: Mapping[str, Any] | None = None,
    ) -> Backend:
        """Open a backend; the directory is made if it is not there.

        Raises:
            PluginError: as for ``find``; also a missing driver, named with its extra.
            ConfigError: an option is unknown or has a wrong value.
            StorageError: the directory or the engine cannot be opened.
        """
        plugin, source = self._find("backend", name)
        descriptor = cast(BackendPlugin, plugin)
        filled = self.convert_options("backend", name, options)
        make_directory(directory)
        return call_factory(
            f"backend {name!r}",
            plugin,
            source.distribution,
            Backend,  # type: ignore[type-abstract]  # only used for isinstance
            lambda: descriptor.factory(directory, keyspaces, filled),
        )

    def make_wal(
        self,
        name: str,
        directory: Path,
        metadata: bytes,
        threaded: bool,
        options: Mapping[str, Any] | None = None,
    ) -> Wal:
        """Open a write-ahead log; the directory is made if it is not there.

        Raises:
            PluginError: as for ``make_backend``.
            ConfigError: an option is unknown or has a wrong value.
            StorageError: the directory or the log cannot be opened.
        """
        plugin, source = self._find("wal", name)
        descriptor = cast(WalPlugin, plugin)
        filled = self.convert_options("wal", name, options)
        make_directory(directory)
        return call_factory(
            f"wal {name!r}",
            plugin,
            source.distribution,
            Wal,  # type: ignore[type-abstract]  # only used for isinstance
            lambda: descriptor.factory(directory, metadata, threaded, filled),
        )

    def make_consensus(
        self,
        name: str,
        start: ConsensusStart,
        options: Mapping[str, Any] | None = None,
    ) -> Consensus:
        """Make a consensus machine.

        Raises:
            PluginError: as for ``make_backend``.
            ConfigError: an option is unknown or has a wrong value.
        """
        plugin, source = self._find("consensus", name)
        descriptor = cast(ConsensusPlugin, plugin)
        filled = self.convert_options("consensus", name, options)
        return call_factory(
            f"consensus {name!r}",
            plugin,
            source.distribution,
            Consensus,  # type: ignore[type-abstract]  # only used for isinstance
            lambda: descriptor.factory(start, filled),
        )

    def make_transport(
        self, name: str, options: Mapping[str, Any] | None = None
    ) -> Transport:
        """Make a transport; it listens on nothing yet.

        Raises:
            PluginError: as for ``make_backend``.
            ConfigError: an option is unknown or has a wrong value.
        """
        plugin, source = self._find("transport", name)
        descriptor = cast(TransportPlugin, plugin)
        filled = self.convert_options("transport", name, options)
        return call_factory(
            f"transport {name!r}",
            plugin,
            source.distribution,
            Transport,  # type: ignore[type-abstract]  # only used for isinstance
            lambda: descriptor.factory(filled),
        )

    def _find(self, kind: Kind, name: str) -> tuple[Plugin, Source]:
        """A plugin and where it comes from."""
        if kind not in KINDS:
            raise PluginError(
                f"there is no kind of plugin {kind!r}; the kinds are {', '.join(KINDS)}"
            )
        source = self._resolve(kind, name)
        if source.distribution == IN_PROCESS:
            return self._registered[kind, name], source
        plugins = self._load(source)
        for plugin in plugins:
            if kind_of(plugin) == kind:
                return plugin, source
        found = " and ".join(kind_of(plugin) for plugin in plugins)
        raise PluginError(f"{name!r} is a {found} plugin, not a {kind} plugin")

    def _resolve(self, kind: Kind, name: str) -> Source:
        """Where the plugin comes from; exactly one place, or an error."""
        builtin = builtin_source(name)
        if builtin is not None:
            return builtin
        found = [source for source in self._sources() if source.name == name]
        if (kind, name) in self._registered:
            found.append(Source(name, "", IN_PROCESS))
        if len(found) > 1:
            raise _two_of_one_name(name, [source.describe() for source in found])
        if not found:
            raise PluginError(self._unknown(kind, name))
        return found[0]

    def _sources(self) -> list[Source]:
        if self._installed is None:
            self._installed = installed_sources(self._environ)
        return self._installed

    def _load(self, source: Source) -> list[Plugin]:
        plugins = self._loaded.get(source)
        if plugins is None:
            plugins = self._loaded[source] = load_source(source, trace=self._trace)
        return plugins

    def _unknown(self, kind: Kind, name: str) -> str:
        known = self.names(kind)
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        restricted = ""
        if RESTRICT_VARIABLE in self._environ:
            restricted = (
                f" ({RESTRICT_VARIABLE}={self._environ[RESTRICT_VARIABLE]!r} hides the "
                "plugins of other distributions)"
            )
        return (
            f"there is no {kind} plugin {name!r}; {hint}installed are: "
            f"{', '.join(known) or 'none'}{restricted}"
        )

    def _report(self, source: Source) -> list[PluginReport]:
        builtin = source.distribution == OWN_DISTRIBUTION
        kind = BUILTIN[source.name][0] if builtin and source.name in BUILTIN else ""
        base = PluginReport(
            name=source.name,
            kind=kind,
            distribution=source.distribution,
            version=source.version,
            status="broken",
            summary="",
            module=source.module,
            builtin=builtin,
        )
        clash = self._clash(source)
        if clash is not None:
            return [_changed(base, status=clash[0], detail=clash[1])]
        try:
            plugins = self._load(source)
        except PluginError as exc:
            return [_changed(base, detail=str(exc))]
        return [_report_of(base, plugin) for plugin in plugins]

    def _clash(self, source: Source) -> tuple[str, str] | None:
        """Status and detail if the name of ``source`` does not mean ``source``."""
        if source.distribution == OWN_DISTRIBUTION:
            return None
        if source.name in BUILTIN:
            return "shadowed", (
                f"the name belongs to the plugin that {OWN_DISTRIBUTION} ships; ask "
                f"{source.distribution} to rename it"
            )
        others = [other for other in self._sources() if other.name == source.name]
        if len(others) > 1:
            error = _two_of_one_name(source.name, [each.describe() for each in others])
            return "conflict", str(error)
        return None


def _changed(report: PluginReport, **changes: Any) -> PluginReport:
    return msgspec.structs.replace(report, **changes)


def _report_of(base: PluginReport, plugin: Plugin) -> PluginReport:
    missing = missing_requirements(plugin, base.distribution)
    status, detail = "ok", ""
    if missing:
        status = "driver missing"
        advice = install_advice(plugin, base.distribution)
        detail = f"{', '.join(missing)} is not installed; {advice}"
    return _changed(
        base,
        kind=kind_of(plugin),
        status=status,
        detail=detail,
        summary=plugin.summary,
    )


def _two_of_one_name(name: str, distributions: Sequence[str]) -> PluginError:
    return PluginError(
        f"two plugins have the name {name!r}: from {' and from '.join(distributions)}; "
        "uninstall one of them, or admit one alone with "
        f"{RESTRICT_VARIABLE}=<distribution>"
    )
