"""``revstore demo``: a cluster on this machine in one command."""

from __future__ import annotations

import click

from revstore.cli import output


@click.command()
@click.option(
    "--backends",
    default="lmdb,rocksdb,lmdb",
    show_default=True,
    help="Backend of each member; as many members as names.",
)
@click.option(
    "--data-dir",
    default="",
    help="Keep the data below this directory (default: a temporary one).",
)
@click.option(
    "--port",
    default=2379,
    show_default=True,
    type=click.IntRange(1024, 20000),
    help="Client port of the first member; each further member is 10000 above.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--peer-transport",
    default="tcp",
    show_default=True,
    help="Transport plugin between the members.",
)
def demo(
    backends: str, data_dir: str, port: int, host: str, peer_transport: str
) -> int:
    """Run a cluster of several members on this machine until Ctrl-C.

    Each member is a process of its own, with a backend of its own. What you type into
    a second terminal is printed at the start.
    """
    from revstore.cli.demo_cluster import DemoCluster, run

    names = [name.strip() for name in backends.split(",") if name.strip()]
    if not names or len(names) > 5:
        raise click.UsageError(
            f"--backends {backends!r} names {len(names)} members; name one to five, "
            "for example lmdb,rocksdb,lmdb"
        )
    cluster = DemoCluster(names, data_dir, host, port, peer_transport)
    return run(cluster, output.line)
