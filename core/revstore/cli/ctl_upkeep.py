"""``revstore ctl alarm, defrag, snapshot``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from revstore.cli import output
from revstore.cli.ctl_run import Session, command
from revstore.cli.ctl_show import size_text
from revstore.client.values import Alarm
from revstore.durable import sync_directory
from revstore.errors import RevstoreError, UsageError


@click.group(help="List and disarm alarms.")
def alarm() -> None:
    """The group."""


@command(alarm, "list")
async def list_alarms(session: Session) -> None:
    """The alarms that are on."""
    _show(session, await session.client.maintenance.alarms())


@command(alarm, "disarm")
async def disarm(session: Session) -> None:
    """Switch all alarms off; prints which were on."""
    _show(session, await session.client.maintenance.disarm())


def _show(session: Session, alarms: tuple[Alarm, ...]) -> None:
    document = [{"member_id": f"{a.member_id:x}", "alarm": a.kind} for a in alarms]
    if session.flags.as_json:
        output.json(document)
        return
    for one in alarms:
        output.line(f"memberID:{one.member_id:x} alarm:{one.kind}")


@command(name="defrag")
@click.option("--cluster", is_flag=True, help="All members, one after the other.")
async def defrag(session: Session, cluster: bool) -> int:
    """Give free space of the disk back, on one member after the other."""
    urls = await session.endpoints(cluster)
    session.client.use_endpoints(urls)
    code = output.OK
    done: list[str] = []
    for url in urls:
        try:
            await session.client.maintenance.defragment(url)
            done.append(url)
            if not session.flags.as_json:
                output.line(f"{url} is defragmented")
        except RevstoreError as error:
            output.error(f"{url}: {error}")
            code = output.FAILURE
    if session.flags.as_json:
        output.json({"defragmented": done})
    return code


@click.group(help="Save the data of a member.")
def snapshot() -> None:
    """The group."""


@command(snapshot, "save", unbounded=True)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
async def save(session: Session, file: Path) -> None:
    """Save a snapshot of one member to FILE, checked and synced to disk.

    FILE appears only when it is whole.
    """
    if len(session.client.endpoints) > 1:
        raise UsageError(
            "a snapshot is of one member: give one endpoint, for example "
            f"--endpoints {session.client.endpoints[0]}"
        )
    part = file.with_name(f"{file.name}.part")
    size = 0
    try:
        with part.open("wb") as target:
            async for piece in session.client.maintenance.snapshot():
                target.write(piece)
                size += len(piece)
            target.flush()
            os.fsync(target.fileno())
        part.replace(file)
        sync_directory(file.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    document = {"file": str(file), "bytes": size}
    session.tell(document, f"{size_text(size)} saved to {file}")
