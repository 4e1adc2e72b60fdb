"""``revstore ctl auth, user, role``."""

from __future__ import annotations

import getpass

import click

from revstore.cli import output
from revstore.cli.ctl_keys import key_arguments, span_of
from revstore.cli.ctl_run import Session, command
from revstore.cli.ctl_show import fields_of, text_of
from revstore.client.values import Permission
from revstore.errors import UsageError


@click.group(help="Switch the asking for users on and off.")
def auth() -> None:
    """The group."""


@command(auth, "enable")
async def enable(session: Session) -> None:
    """Ask for users; the user root with the role root must exist."""
    await session.client.auth.enable()
    session.tell({"enabled": True}, "Authentication Enabled")


@command(auth, "disable")
async def disable(session: Session) -> None:
    """Ask for users no longer."""
    await session.client.auth.disable()
    session.tell({"enabled": False}, "Authentication Disabled")


@command(auth, "status")
async def status(session: Session) -> None:
    """Whether users are asked for."""
    found = await session.client.auth.status()
    session.tell(
        {"enabled": found.enabled, "revision": found.revision},
        f"Authentication Status: {str(found.enabled).lower()}\n"
        f"AuthRevision: {found.revision}",
    )


@click.group(help="Users and their roles.")
def user() -> None:
    """The group."""


def _password(name: str, given: str | None) -> str:
    if given is not None:
        return given
    first = getpass.getpass(f"password of {name}: ")
    if getpass.getpass("once more: ") != first:
        raise UsageError("the two passwords differ")
    return first


@command(user, "add")
@click.argument("name", metavar="NAME[:PASSWORD]")
@click.option("--new-user-password", default=None, help="The password of the user.")
@click.option("--no-password", is_flag=True, help="It comes with a certificate only.")
async def add(
    session: Session, name: str, new_user_password: str | None, no_password: bool
) -> None:
    """Add a user."""
    name, colon, password = name.partition(":")
    given = password if colon else new_user_password
    chosen = None if no_password else _password(name, given)
    await session.client.auth.add_user(name, chosen)
    session.tell({"user": name}, f"User {name} created")


@command(user, "delete")
@click.argument("name")
async def delete(session: Session, name: str) -> None:
    """Delete a user."""
    await session.client.auth.delete_user(name)
    session.tell({"user": name}, f"User {name} deleted")


@command(user, "get")
@click.argument("name")
async def get(session: Session, name: str) -> None:
    """The roles of a user."""
    roles = await session.client.auth.user_roles(name)
    document = {"user": name, "roles": list(roles)}
    session.tell(document, f"User: {name}\nRoles: {' '.join(roles)}")


@command(user, "list")
async def list_users(session: Session) -> None:
    """The names of all users."""
    _names(session, await session.client.auth.users())


def _names(session: Session, names: tuple[str, ...]) -> None:
    if session.flags.as_json:
        output.json(list(names))
        return
    for name in names:
        output.line(name)


@command(user, "passwd")
@click.argument("name")
@click.option("--new-password", default=None, help="Without it, it is asked for.")
async def passwd(session: Session, name: str, new_password: str | None) -> None:
    """Give a user another password."""
    await session.client.auth.change_password(name, _password(name, new_password))
    session.tell({"user": name}, "Password updated")


@command(user, "grant-role")
@click.argument("name")
@click.argument("role_name", metavar="ROLE")
async def grant_role(session: Session, name: str, role_name: str) -> None:
    """Give a user a role."""
    await session.client.auth.grant_role(name, role_name)
    document = {"user": name, "role": role_name}
    session.tell(document, f"Role {role_name} is granted to user {name}")


@command(user, "revoke-role")
@click.argument("name")
@click.argument("role_name", metavar="ROLE")
async def revoke_role(session: Session, name: str, role_name: str) -> None:
    """Take a role from a user."""
    await session.client.auth.revoke_role(name, role_name)
    document = {"user": name, "role": role_name}
    session.tell(document, f"Role {role_name} is revoked from user {name}")


@click.group(help="Roles and their permissions.")
def role() -> None:
    """The group."""


@command(role, "add")
@click.argument("name")
async def add_role(session: Session, name: str) -> None:
    """Add a role."""
    await session.client.auth.add_role(name)
    session.tell({"role": name}, f"Role {name} created")


@command(role, "delete")
@click.argument("name")
async def delete_role(session: Session, name: str) -> None:
    """Delete a role."""
    await session.client.auth.delete_role(name)
    session.tell({"role": name}, f"Role {name} deleted")


@command(role, "list")
async def list_roles(session: Session) -> None:
    """The names of all roles."""
    _names(session, await session.client.auth.roles())


@command(role, "get")
@click.argument("name")
async def get_role(session: Session, name: str) -> None:
    """What a role may do."""
    found = await session.client.auth.role_permissions(name)
    document = [
        {"kind": p.kind, **fields_of("key", p.key), **fields_of("end", p.end)}
        for p in found
    ]
    rows = [(p.kind, text_of(p.key), _end(p)) for p in found]
    session.show(
        {"role": name, "permissions": document}, ("KIND", "KEY", "RANGE END"), rows
    )


def _end(permission: Permission) -> str:
    if permission.end == b"\x00":
        return "(to the last key)"
    return text_of(permission.end) or "-"


@command(role, "grant-permission")
@click.argument("name", metavar="ROLE")
@click.argument("kind", type=click.Choice(["read", "write", "readwrite"]))
@key_arguments
async def grant_permission(
    session: Session,
    name: str,
    kind: str,
    key: str,
    range_end: str | None,
    prefix: bool,
    from_key: bool,
) -> None:
    """Let a role read or write a key, a range or a prefix."""
    span = span_of(key, range_end, prefix, from_key)
    await session.client.auth.grant_permission(name, kind, **span)
    session.tell({"role": name}, f"Role {name} updated")


@command(role, "revoke-permission")
@click.argument("name", metavar="ROLE")
@key_arguments
async def revoke_permission(
    session: Session,
    name: str,
    key: str,
    range_end: str | None,
    prefix: bool,
    from_key: bool,
) -> None:
    """Take a permission from a role; the keys must be those it was given for."""
    span = span_of(key, range_end, prefix, from_key)
    await session.client.auth.revoke_permission(name, **span)
    session.tell({"role": name}, f"Permission of role {name} is revoked")
