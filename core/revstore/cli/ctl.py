"""``revstore ctl``: talk to the members of a cluster; the commands of etcdctl."""

from __future__ import annotations

import importlib
from typing import Any

import click

from revstore.cli.ctl_options import connection_options, remember

_COMMANDS: dict[str, tuple[str, str]] = {
    "get": ("ctl_kv:get", "Read a key, a range or a prefix."),
    "put": ("ctl_kv:put", "Set a key."),
    "del": ("ctl_kv:delete", "Delete a key, a range or a prefix."),
    "txn": ("ctl_txn:txn", "Run a transaction read from standard input."),
    "compaction": ("ctl_kv:compaction", "Forget the history before a revision."),
    "watch": ("ctl_kv:watch", "Print changes as they happen."),
    "lease": ("ctl_lease:lease", "Grant, renew, look at and revoke leases."),
    "endpoint": ("ctl_endpoint:endpoint", "Status, health and checksum of endpoints."),
    "member": ("ctl_member:member", "List and change the members."),
    "move-leader": ("ctl_member:move_leader", "Make another member the leader."),
    "alarm": ("ctl_upkeep:alarm", "List and disarm alarms."),
    "defrag": ("ctl_upkeep:defrag", "Give free space of the disk back."),
    "snapshot": ("ctl_upkeep:snapshot", "Save the data of a member."),
    "auth": ("ctl_auth:auth", "Switch the asking for users on and off."),
    "user": ("ctl_auth:user", "Users and their roles."),
    "role": ("ctl_auth:role", "Roles and their permissions."),
}
"""Where each command is, and its line in the help."""


class _Lazy(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or None."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry[0].partition(":")
        found: click.Command = getattr(
            importlib.import_module(f"revstore.cli.{module}"), name
        )
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a hint at similar names."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise click.UsageError(
                f"there is no command {args[0]!r}; {hint}the commands are "
                f"{', '.join(_COMMANDS)}",
                ctx,
            )
        return super().resolve_command(ctx, args)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[1]) for name, entry in _COMMANDS.items()])


@click.group(cls=_Lazy)
@connection_options
@click.pass_context
def ctl(ctx: click.Context, /, **given: Any) -> None:
    """Talk to the members of a cluster.

    The flags may stand before the command or behind it. Endpoints are URLs separated
    by commas: http:// and https:// for gRPC, tcp:// and tcps:// for the transport tcp.
    Every flag can come from the environment: REVSTORECTL_ENDPOINTS or
    ETCDCTL_ENDPOINTS for --endpoints, and so on.
    """
    remember(ctx, given)
