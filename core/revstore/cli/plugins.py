"""``revstore plugins``: what is installed, and whether it works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from revstore.cli import output

if TYPE_CHECKING:
    from revstore.plugin.manager import PluginManager
    from revstore.plugin.report import PluginReport

_JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _manager() -> PluginManager:
    import logging
    import os

    from revstore.plugin.load import TRACE_VARIABLE
    from revstore.plugin.manager import PluginManager

    if os.environ.get(TRACE_VARIABLE, "") not in ("", "0"):
        from revstore import logs

        if not logging.getLogger().handlers:
            logs.setup("info", "console")
    return PluginManager()


@click.group(help="List and check plugins.")
def plugins() -> None:
    """The group of plugin commands."""


@plugins.command("list")
@_JSON_OPTION
def list_plugins(as_json: bool) -> None:
    """List every plugin, without loading any driver."""
    reports = _manager().all()
    if as_json:
        output.json([_as_dict(report) for report in reports])
        return
    rows = [
        (
            report.name,
            report.kind or "?",
            report.version or "-",
            report.distribution,
            report.status,
            report.summary or "-",
        )
        for report in reports
    ]
    header = ("NAME", "KIND", "VERSION", "DISTRIBUTION", "STATUS", "SUMMARY")
    output.table(header, rows)
    for report in reports:
        if report.detail:
            output.warn(f"{report.name}: {report.detail}")


@plugins.command()
@click.argument("name")
@_JSON_OPTION
def show(name: str, as_json: bool) -> int:
    """Show one plugin: capabilities and options."""
    manager = _manager()
    reports = [report for report in manager.all() if report.name == name]
    if not reports:
        from difflib import get_close_matches

        known = sorted({report.name for report in manager.all()})
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        output.error(
            f"there is no plugin {name!r}; {hint}installed are: {', '.join(known)}"
        )
        return output.FAILURE
    details = [_details(manager, report) for report in reports]
    if as_json:
        output.json(details)
    else:
        for detail in details:
            _print_details(detail)
    return output.OK


@plugins.command()
@_JSON_OPTION
def doctor(as_json: bool) -> int:
    """Load every plugin with its driver, try it out, and say what is missing.

    Exits with 1 if anything is wrong.
    """
    from revstore.plugin.doctor import diagnose

    manager = _manager()
    found = [(report, diagnose(manager, report)) for report in manager.all()]
    broken = [report for report, problem in found if problem]
    if as_json:
        output.json(
            [
                {"name": report.name, "kind": report.kind, "problem": problem}
                for report, problem in found
            ]
        )
    else:
        for report, problem in found:
            output.line(f"{'FAIL' if problem else 'ok':4}  {report.kind} {report.name}")
            if problem:
                output.line(f"      {problem}")
    if broken:
        output.error(f"{len(broken)} of {len(found)} plugins cannot be used")
        return output.FAILURE
    return output.OK


def _as_dict(report: PluginReport) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(report)


def _details(manager: PluginManager, report: PluginReport) -> dict[str, Any]:
    import msgspec

    from revstore.errors import PluginError

    detail = _as_dict(report)
    if report.status not in ("ok", "driver missing"):
        return detail
    try:
        plugin = manager.find(report.kind, report.name)  # type: ignore[call-overload]  # a report's kind is a Kind
    except PluginError as exc:
        return detail | {"detail": str(exc)}
    detail["extra"] = plugin.extra
    detail["api_version"] = plugin.api_version
    detail["capabilities"] = msgspec.to_builtins(plugin.capabilities)
    default = plugin.options()
    detail["options"] = [
        {
            "name": field.name,
            "type": getattr(field.type, "__name__", str(field.type)),
            "default": msgspec.to_builtins(getattr(default, field.name), enc_hook=str),
        }
        for field in msgspec.structs.fields(plugin.options)
    ]
    return detail


def _print_details(detail: dict[str, Any]) -> None:
    output.line(f"{detail['kind'] or 'plugin'} {detail['name']}: {detail['summary']}")
    version = f" {detail['version']}" if detail["version"] else ""
    output.line(f"  from          {detail['distribution']}{version}")
    output.line(f"  module        {detail['module'] or '-'}")
    output.line(f"  status        {detail['status']}")
    if detail["detail"]:
        output.line(f"  problem       {detail['detail']}")
    if "capabilities" not in detail:
        return
    output.line(f"  api version   {detail['api_version']}")
    if detail["extra"]:
        output.line(
            f"  driver        pip install '{detail['distribution']}[{detail['extra']}]'"
        )
    output.line("  capabilities")
    for name, value in detail["capabilities"].items():
        output.line(f"    {name} = {value}")
    output.line("  options" if detail["options"] else "  options       none")
    for option in detail["options"]:
        default = option["default"]
        output.line(f"    {option['name']} ({option['type']}) = {default!r}")
