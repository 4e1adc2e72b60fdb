"""``revstore ctl``: talk to the members of a cluster; the commands of etcdctl."""

from __future__ import annotations

from typing import Any

import click

from revstore.cli.ctl_options import connection_options, remember
from revstore.cli.lazy import LazyGroup

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


@click.group(cls=LazyGroup, table=_COMMANDS)
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
