"""``revstore ctl lease``."""

from __future__ import annotations

import asyncio

import click

from revstore.cli import output
from revstore.cli.ctl_run import Session, command
from revstore.cli.ctl_show import lease_id, text_of


@click.group(help="Grant, renew, look at and revoke leases.")
def lease() -> None:
    """The group."""


@command(lease, "grant")
@click.argument("ttl", type=int)
@click.option("--id", "wanted", default="0", help="Id to give it, in hexadecimal.")
async def grant(session: Session, ttl: int, wanted: str) -> None:
    """Grant a lease of TTL seconds."""
    granted = await session.client.lease(ttl, lease_id=lease_id(wanted))
    session.tell(
        {"id": f"{granted.id:x}", "ttl": granted.ttl_s},
        f"lease {granted.id:016x} granted with TTL({granted.ttl_s}s)",
    )


@command(lease, "revoke")
@click.argument("lease_id_text", metavar="ID")
async def revoke(session: Session, lease_id_text: str) -> None:
    """End a lease and delete its keys."""
    number = lease_id(lease_id_text)
    await session.client.revoke(number)
    session.tell({"id": f"{number:x}"}, f"lease {number:016x} revoked")


@command(lease, "timetolive")
@click.argument("lease_id_text", metavar="ID")
@click.option("--keys", is_flag=True, help="Also the keys attached to it.")
async def timetolive(session: Session, lease_id_text: str, keys: bool) -> int:
    """What is left of a lease; exit code 1 if it is gone."""
    number = lease_id(lease_id_text)
    info = await session.client.time_to_live(number, keys=keys)
    attached = [text_of(key) for key in info.keys]
    gone = info.ttl_s < 0
    text = f"lease {number:016x} already expired"
    if not gone:
        text = (
            f"lease {number:016x} granted with TTL({info.granted_ttl_s}s), "
            f"remaining({info.ttl_s}s)"
        )
        if keys:
            text += f", attached keys([{' '.join(attached)}])"
    document = {
        "id": f"{number:x}",
        "ttl": info.ttl_s,
        "granted_ttl": info.granted_ttl_s,
        "keys": attached,
    }
    session.tell(document, text)
    return output.FAILURE if gone else output.OK


@command(lease, "list")
async def list_leases(session: Session) -> None:
    """The ids of all leases."""
    found = [f"{number:x}" for number in await session.client.leases()]
    text = "\n".join([f"found {len(found)} leases", *(f"{one:>016}" for one in found)])
    session.tell({"leases": found}, text)


@command(lease, "keep-alive", unbounded=True)
@click.argument("lease_id_text", metavar="ID")
@click.option("--once", is_flag=True, help="Renew once and end.")
async def keep_alive(session: Session, lease_id_text: str, once: bool) -> int:
    """Renew a lease until it is lost, over failed members, too."""
    number = lease_id(lease_id_text)
    while True:
        ttl_s = await session.client.keep_alive(number)
        if not ttl_s:
            output.error(f"lease {number:016x} expired or revoked")
            return output.FAILURE
        session.tell(
            {"id": f"{number:x}", "ttl": ttl_s},
            f"lease {number:016x} keepalived with TTL({ttl_s})",
        )
        if once:
            return output.OK
        await asyncio.sleep(ttl_s / 3)
