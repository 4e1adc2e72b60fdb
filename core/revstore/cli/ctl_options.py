"""The flags of ``revstore ctl`` that every command takes.

Only click is imported: the help must come quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

ENDPOINTS = "http://127.0.0.1:2379"
PREFIXES = ("REVSTORECTL", "ETCDCTL")
PARAMETER = "flag_"
"""What the parameters of the flags begin with: commands have a KEY of their own."""
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Function = TypeVar("Function", bound=Callable[..., Any])


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4
    """Seconds, written like 500ms, 5s or 1m; a plain number is seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The seconds. Raises: UsageError: it is no duration."""
        if isinstance(value, int | float):
            return float(value)
        text = str(value).strip()
        unit = next((one for one in DURATION_UNITS if text.endswith(one)), "")
        number = text.removesuffix(unit)
        try:
            seconds = float(number) * DURATION_UNITS.get(unit, 1.0)
        except ValueError:
            seconds = -1.0
        if not seconds > 0:
            self.fail(f"{text!r} is no duration; write it like 500ms, 5s or 1m")
        return seconds


OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--endpoints",),
        {"metavar": "URLS", "help": f"Where the members are ({ENDPOINTS})."},
    ),
    (
        ("--user",),
        {"metavar": "NAME[:PASSWORD]", "help": "Who asks; asks for the password."},
    ),
    (("--password",), {"help": "Password of --user, if it is not given there."}),
    (("--cacert",), {"metavar": "FILE", "help": "Who signs the servers (PEM)."}),
    (("--cert",), {"metavar": "FILE", "help": "Certificate of the client (PEM)."}),
    (("--key",), {"metavar": "FILE", "help": "Key of the certificate (PEM)."}),
    (
        ("--server-name",),
        {"metavar": "NAME", "help": "Name in the servers' certificate."},
    ),
    (
        ("--insecure-skip-tls-verify",),
        {"is_flag": True, "default": None, "help": "Take any certificate (tcps)."},
    ),
    (
        ("--command-timeout",),
        {"type": Duration(), "help": "Time for a command; 5s, watch has none."},
    ),
    (("--dial-timeout",), {"type": Duration(), "help": "Time to connect; 2s."}),
    (
        ("--output", "-w", "--write-out"),
        {
            "type": click.Choice(["text", "table", "json"]),
            "help": "Lines, tables for people, or JSON for programs (text).",
        },
    ),
)


def connection_options(function: Function) -> Function:
    """Give a command all flags of the connection; each is None if it was not given."""
    for names, settings in reversed(OPTIONS):
        function = click.option(*names, PARAMETER + _stem(names), **settings)(function)
    return function


def names_of_options() -> list[str]:
    """What the flags are called."""
    return [_stem(names) for names, _ in OPTIONS]


def _stem(names: tuple[str, ...]) -> str:
    return names[0][2:].replace("-", "_")


def remember(ctx: click.Context, given: Mapping[str, Any]) -> None:
    """Keep the flags before the command for the command."""
    ctx.obj = {name: value for name, value in given.items() if value is not None}


def value_of(
    name: str,
    given: Mapping[str, Any],
    before: Mapping[str, Any],
    environ: Mapping[str, str],
) -> Any:
    """A flag: behind the command, before it, or from the environment; None else."""
    for source in (given, before):
        value = source.get(PARAMETER + name)
        if value is not None:
            return value
    for prefix in PREFIXES:
        text = environ.get(f"{prefix}_{name.upper()}")
        if text:
            return text
    return None
