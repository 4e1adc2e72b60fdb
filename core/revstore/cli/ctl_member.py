"""``revstore ctl member`` and ``move-leader``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from revstore.cli import output
from revstore.cli.ctl_run import Session, command
from revstore.cli.ctl_show import member_fields, member_id
from revstore.client.values import Member
from revstore.errors import UsageError


def _urls(texts: Sequence[str]) -> list[str]:
    urls = [url.strip() for text in texts for url in text.split(",") if url.strip()]
    if not urls:
        raise UsageError("give --peer-urls=http://HOST:PORT")
    return urls


@click.group(help="List and change the members.")
def member() -> None:
    """The group."""


@command(member, "list")
async def list_members(session: Session) -> None:
    """All members."""
    _show(session, await session.client.cluster.members())


def _show(session: Session, members: Sequence[Member]) -> None:
    rows = [
        (
            f"{one.id:x}",
            "started" if one.name else "unstarted",
            one.name or "-",
            ", ".join(one.peer_urls),
            ", ".join(one.client_urls) or "-",
            "learner" if one.is_learner else "voter",
        )
        for one in members
    ]
    header = ("ID", "STATUS", "NAME", "PEER URLS", "CLIENT URLS", "ROLE")
    session.show([member_fields(one) for one in members], header, rows)


@command(member, "add")
@click.argument("name")
@click.option("--peer-urls", multiple=True, help="Where the others reach it.")
@click.option("--learner", is_flag=True, help="Without a vote, until it is promoted.")
async def add(
    session: Session, name: str, peer_urls: tuple[str, ...], learner: bool
) -> None:
    """Add a member that will be started as NAME; prints how."""
    urls = _urls(peer_urls)
    added = await session.client.cluster.add(urls, is_learner=learner)
    members = await session.client.cluster.members()
    parts = [
        f"{one.name or name}={url}"
        for one in members
        if one.name or one.id == added.id
        for url in one.peer_urls
    ]
    if session.flags.as_json:
        output.json(
            {"member": member_fields(added), "initial_cluster": ",".join(parts)}
        )
        return
    role = "learner" if learner else "member"
    output.line(f"{role} {added.id:x} added; start it with:\n")
    output.line(
        f"  revstore serve --name {name} --initial-cluster-state existing \\\n"
        f"    --initial-advertise-peer-urls {','.join(urls)} \\\n"
        f"    --listen-peer-urls {','.join(urls)} \\\n"
        f"    --initial-cluster {','.join(parts)}"
    )


@command(member, "remove")
@click.argument("id_text", metavar="ID")
async def remove(session: Session, id_text: str) -> None:
    """Remove a member; it may never come back under this id."""
    number = member_id(id_text)
    members = await session.client.cluster.remove(number)
    document = {"removed": f"{number:x}", "members": [f"{m.id:x}" for m in members]}
    session.tell(document, f"member {number:x} removed; {len(members)} stay")


@command(member, "promote")
@click.argument("id_text", metavar="ID")
async def promote(session: Session, id_text: str) -> None:
    """Give a learner a vote."""
    number = member_id(id_text)
    await session.client.cluster.promote(number)
    session.tell({"promoted": f"{number:x}"}, f"member {number:x} is a voter")


@command(member, "update")
@click.argument("id_text", metavar="ID")
@click.option("--peer-urls", multiple=True, help="Where the others reach it.")
async def update(session: Session, id_text: str, peer_urls: tuple[str, ...]) -> None:
    """Give a member other peer URLs."""
    number = member_id(id_text)
    urls = _urls(peer_urls)
    await session.client.cluster.update(number, urls)
    text = f"member {number:x} is reached at {', '.join(urls)}"
    session.tell({"updated": f"{number:x}", "peer_urls": urls}, text)


@command(name="move-leader")
@click.argument("id_text", metavar="ID")
async def move_leader(session: Session, id_text: str) -> None:
    """Make another member the leader; the leader is found among all members."""
    number = member_id(id_text)
    session.client.use_endpoints(
        dict.fromkeys([*session.client.endpoints, *await session.endpoints(True)])
    )
    await session.client.maintenance.move_leader(number)
    session.tell({"leader": f"{number:x}"}, f"leadership moves to {number:x}")
