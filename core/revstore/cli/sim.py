"""``revstore sim``: run simulated clusters; the simulator is in the conformance suite.

The core must not depend on the suite, so it is imported by name when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from revstore.errors import PluginError

SUITE = "revstore_conformance.sim.cli"


def _load() -> click.Command:
    try:
        command: Any = importlib.import_module(SUITE).sim
    except ImportError as exc:
        raise PluginError(
            f"the simulator cannot be imported ({exc}); install it with: "
            "pip install 'revstore[conformance]'"
        ) from exc
    assert isinstance(command, click.Command)
    return command


class _Lazy(click.Command):
    """The suite's command, imported when it is used."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The context of the suite's command. Raises: PluginError."""
        return _load().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it. Raises: PluginError."""
        return ctx.command.invoke(ctx)


sim = _Lazy("sim")
